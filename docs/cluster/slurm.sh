#!/bin/bash
# A whole profile on a Slurm cluster, from a login node, in the repository's root:
#     bash docs/cluster/slurm.sh configs/avamerg.yaml
#
# Three jobs, each of which waits for the one before: manifest and extraction; a task of an array for each head; fusion.
# Partitions, accounts and the like come from the environment (SBATCH_PARTITION, SBATCH_ACCOUNT ...). Settings:
#     GPUS=2            of the extraction, on one node; 0: none.  HEAD_GPUS=1: of each head
#     HOURS=12          of each job; an extraction that needs more goes on in the same job, requeued
#     EMOCACHE=...      what runs the program, as "apptainer exec --nv emocache.sif"; default: the active environment
#
# Exit codes of an extraction: 0 done. 2 a mistake in the profile, a full disk, storage that does not answer: mend it and
# submit again. 3 done, but more clips failed than store.max_error_share allows: look at errors.parquet.
# 143 SIGTERM, 130 Ctrl-C: what is complete is committed, and the same command goes on from there.
set -euo pipefail

profile=${2:-${1:?usage: bash docs/cluster/slurm.sh PROFILE.yaml}}
read -ra within <<< "${EMOCACHE:-}"

emocache() { # in the background, for bash handles a signal only when nothing runs before it
    "${within[@]}" "$@" &
    child=$!
    trap 'kill -TERM "$child" 2> /dev/null || true' TERM
    code=0
    wait "$child" || code=$?
    while kill -0 "$child" 2> /dev/null; do # the signal ended the wait, not the program
        code=0
        wait "$child" || code=$?
    done
    if [ "$code" -eq 143 ]; then # 120 s before the time limit, or preempted
        scontrol requeue "$SLURM_JOB_ID"
        sleep 60 # until Slurm ends this run; to go on, or to fail, would let the next job start or give it up
    fi
    return "$code"
}

heads() {
    "${within[@]}" python -c 'import sys; from configs import load; print(*load(sys.argv[1], None).heads)' "$profile"
}

devices() { # cuda:0,cuda:1 for GPUS=2
    if [ "$1" -eq 0 ]; then echo cpu; else seq -s, -f cuda:%g 0 $(($1 - 1)); fi
}

case ${2:+$1} in
extract)
    emocache python extract/manifest.py --config "$profile"
    emocache python extract/run.py --config "$profile" --device "$(devices "${GPUS:-1}")" --workers "$SLURM_CPUS_PER_TASK"
    ;;
head)
    read -ra names <<< "$(heads)"
    emocache python heads/train.py --config "$profile" --head "${names[$SLURM_ARRAY_TASK_ID]}"
    ;;
fuse)
    emocache python fusion/stack.py --config "$profile"
    ;;
*)
    read -ra names <<< "$(heads)"
    submit() { # job's name, step, GPUs, further options
        local gpus=()
        if [ "$3" -gt 0 ]; then gpus=(--gres "gpu:$3"); fi
        sbatch --parsable --job-name "$1" --time "${HOURS:-12}:00:00" --requeue --open-mode append --signal B:TERM@120 \
            --nodes 1 --ntasks 1 --cpus-per-task "${CPUS:-8}" --kill-on-invalid-dep yes "${gpus[@]}" "${@:4}" \
            "$0" "$2" "$profile"
    }
    mkdir -p runs
    extracted=$(submit extract extract "${GPUS:-1}" --output runs/slurm-%x-%j.log)
    trained=$(submit heads head "${HEAD_GPUS:-1}" --output runs/slurm-%x-%A-%a.log \
        --array "0-$((${#names[@]} - 1))" --dependency "afterok:$extracted")
    fused=$(submit fuse fuse 0 --output runs/slurm-%x-%j.log --dependency "afterok:$trained")
    echo "extraction $extracted, heads $trained, fusion $fused: squeue --me; logs in runs/"
    ;;
esac
