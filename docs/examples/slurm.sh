#!/bin/bash
#SBATCH --job-name=squares
#SBATCH --array=0-99%10
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --gres=gpu:1
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --partition=a100
#SBATCH --output=logs/%A_%a.out
#SBATCH --export=ALL,LANG=C
module load python/3.11
source ~/venv/bin/activate
cd $SLURM_SUBMIT_DIR
srun python square.py $SLURM_ARRAY_TASK_ID
