#!/usr/bin/env bash
# One Slurm allocation, one Ray cluster: the head on its first node, a worker on each other one, and a verb of sm-search.
#
# Once, on the login node, in a checkout on a file system that all nodes share, with Python 3.11 or newer:
#   python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[cluster]'
# Set the #SBATCH lines as your cluster wants them (partition, account, GPUs). From the checkout:
#   job=$(sbatch --parsable --gpus-per-node=0 cluster/slurm.sh simulate --preset paper-54 --out data/paper-54)
#   sbatch --dependency="afterok:${job%%;*}" cluster/slurm.sh sweep --space search_spaces/gpu.yaml --data data/paper-54
#   squeue --me; tail -f slurm-JOBID.log; scancel JOBID      # where it is, what it says, end it
# Five minutes before the time limit the sweep is stopped and the job queued again; it then resumes from the checkpoint of
# each trial's last rung. To resume by hand: SM_SEARCH_HOME=outputs/slurm-JOBID sbatch cluster/slurm.sh sweep … as before.
# Results: `.venv/bin/sm-search promote --study gpu --data data/paper-54 --home outputs/slurm-JOBID`, and so with every verb;
# `.venv/bin/mlflow ui --backend-store-uri sqlite:///$PWD/outputs/slurm-JOBID/mlflow.db` on the login node, and on your own
# machine `ssh -L 5000:127.0.0.1:5000 LOGINNODE`: whoever has an account on that node may write there while it runs.
#
#SBATCH --job-name=sm-search
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

# A home for each job and its restarts: what is in it tells whether there is something to resume.
home=${SM_SEARCH_HOME:-outputs/slurm-$SLURM_JOB_ID}
mkdir -p "$home"
export PATH=$PWD/.venv/bin:$PATH RAY_USAGE_STATS_ENABLED=0
# Other users are on these nodes too: without the token, which only we can read, they could run code as us.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/$home/ray-token
[[ $home == /* ]] && RAY_AUTH_TOKEN_PATH=$home/ray-token
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")

# Two jobs may share a node: a port and a folder of our own.
port=$((20000 + SLURM_JOB_ID % 20000))
resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")
address=$(python -c 'import ray; print(ray.util.get_node_ip_address())'):$port

started=()
trap 'kill "${started[@]}" 2> /dev/null; wait; rm -rf "/tmp/ray-$SLURM_JOB_ID"' EXIT
# Slurm sends USR1 five minutes before the end (--signal above), and at the end kills whatever is left.
verb='' limit=''
trap 'limit=yes; [[ ! $verb ]] || kill -TERM "$verb"' USR1

ray start --head --block --node-ip-address="${address%:*}" --port="$port" --include-dashboard=false \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" --disable-usage-stats "${resources[@]}" > "$home/head.log" 2>&1 &
started+=($!)
for _ in {1..120}; do
    if (exec 3<> "/dev/tcp/${address%:*}/$port") 2> /dev/null; then break; fi
    sleep 1
done
others=$((SLURM_JOB_NUM_NODES - 1))
if ((others)); then
    # This script runs on the first node.
    mapfile -t names < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    # Since Slurm 22.05 srun does not take the number of CPUs from the job: each worker would have one core.
    srun --nodes="$others" --ntasks="$others" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --exclude="${names[0]}" \
        ray start --block --address="$address" "${resources[@]}" > "$home/workers.log" 2>&1 &
    started+=($!)
fi
python - "$address" "$SLURM_JOB_NUM_NODES" << 'END'
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
until = time.monotonic() + 300
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    if time.monotonic() > until:
        sys.exit("not all nodes joined: see head.log and workers.log")
    time.sleep(1)
END

more=(--ray-address "$address")
if [[ $1 == sweep ]]; then
    more+=(--home "$home")
    if compgen -G "$home/studies/*/study.json" > /dev/null; then more+=(--resume); fi
fi
status=0
if [[ ! $limit ]]; then
    sm-search "$@" "${more[@]}" &
    verb=$!
    started+=("$verb")
    wait "$verb" || status=$?
fi
if [[ $limit ]]; then
    # The sweep notes how far it is; what has hung by then is killed, so that there is time to queue the job.
    for _ in {1..200}; do
        if [[ ! $verb ]] || ! kill -0 "$verb" 2> /dev/null; then break; fi
        sleep 1
    done
    [[ ! $verb ]] || kill -KILL "$verb" 2> /dev/null || true
    echo "time limit: queued again, to resume from the last rung of each trial"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
