// Prints a configuration of NVIDIA's device plugin, from a file, as the plugin itself reads it.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	cli "github.com/urfave/cli/v2"

	spec "github.com/NVIDIA/k8s-device-plugin/api/config/v1"
)

func main() {
	flags := []cli.Flag{&cli.StringFlag{Name: "config-file"}}
	app := cli.NewApp()
	app.Flags = flags
	app.Action = func(c *cli.Context) error {
		config, err := spec.NewConfig(c, flags)
		if err != nil {
			return err
		}
		text, err := json.Marshal(config)
		if err != nil {
			return err
		}
		fmt.Printf(`{"strategy": %q, "config": %s}`, config.Sharing.SharingStrategy(), text)
		return nil
	}
	if err := app.Run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
