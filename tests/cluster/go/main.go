// Every daemon of a Kubernetes cluster in one binary, chosen by the name that it is called by or
// else by the first argument.
//
// One binary shares the code that the daemons have in common: it links once, is a third of the
// size of seven programs, and stays in the page cache when the second daemon starts.
//
//	kube kube-apiserver --etcd-servers ...
//	kube kubectl get pods
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	_ "time/tzdata" // CronJob time zones, on machines without tzdata

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // exec credential plugins for kubectl
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// corednsPlugins is the order in which CoreDNS passes a query through them.
var corednsPlugins = []string{"bind", "ready", "errors", "cache", "kubernetes"}

var programs = map[string]func(){
	"coredns": func() {
		dnsserver.Directives = corednsPlugins
		coremain.Run()
	},
	"etcd":                    func() { etcdmain.Main(os.Args) },
	"kube-apiserver":          func() { serve(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() { serve(controllermanager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() { serve(scheduler.NewSchedulerCommand()) },
	"kubelet":                 func() { serve(kubelet.NewKubeletCommand(context.Background())) },
	"kubectl":                 kubectl,
}

func serve(command *cobra.Command) {
	os.Exit(cli.Run(command))
}

func kubectl() {
	// kubectl takes over every flag of the process-wide set, and CoreDNS has put its own there.
	flag.CommandLine = flag.NewFlagSet("kubectl", flag.ExitOnError)
	logs.GlogSetter(cmd.GetLogVerbosity(os.Args)) //nolint:errcheck // a bad -v is reported later
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}

func main() {
	if run, known := programs[filepath.Base(os.Args[0])]; known {
		run()
		return
	}
	if len(os.Args) > 1 {
		if run, known := programs[os.Args[1]]; known {
			os.Args = os.Args[1:]
			run()
			return
		}
	}
	names := make([]string, 0, len(programs))
	for name := range programs {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "usage: kube {%s} [ARGUMENT...]\n", strings.Join(names, "|"))
	os.Exit(2)
}
