#!/usr/bin/env bash
@@{directives}
#
# Recipe @@{name}, rendered by kd-ray @@{version}. Submit it with `sbatch FILE`, from a folder that
# all nodes see. Slurm starts it again after preemption, a lost node or the time limit, and the run
# goes on where it was; `sbatch` by hand does the same.
set -euo pipefail

# Values are literal: nothing in them is for the shell to expand.
# shellcheck disable=SC2016,SC1003
runs=@@{runs}
# shellcheck disable=SC2016,SC1003
data=@@{data}
# shellcheck disable=SC2016,SC1003
command=(@@{command})
# shellcheck disable=SC2016,SC1003
overrides=(@@{overrides})
cpus=@@{cpus}
gpus=@@{gpus}
patience_s=600
grace_s=45 # Ray drains a node for up to 30 s

say() { printf 'kd-ray: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 1
}

: "${SLURM_JOB_ID:?is set by Slurm; submit this script with sbatch}"
[[ -n $runs ]] || runs=runs
[[ $runs == /* || $runs == *://* ]] || runs=$SLURM_SUBMIT_DIR/$runs
[[ -z $data ]] || export KD_RAY_DATA=$data

# The user's own commands, such as activating an environment that all nodes see; many such scripts
# read variables that are not set.
set +u
@@{setup}
set -u

folder=$SLURM_SUBMIT_DIR/kd-ray-$SLURM_JOB_ID # recipe, token and Ray's output, for all nodes
scratch=/tmp/kd-ray-$SLURM_JOB_ID             # of each node: Ray's sockets and logs
recipe=$folder/recipe.toml
token=$folder/token
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_TOKEN RAY_ADDRESS

steps=() # the srun processes of this script; nothing else is ever ended
child=
requeue=

# Runs a command so that a signal is answered at once: bash waits with traps for what runs in front.
attend() {
  local status=0
  "$@" &
  child=$!
  wait "$child" || status=$?
  child=
  return "$status"
}

# USR1: the time is nearly up, or a preemption is near. TERM: somebody ends the job, and a job that
# Slurm preempts it starts again by itself; asking for that here would bring back a cancelled one.
stop() {
  trap '' TERM USR1
  requeue=$1
  say "told to stop; finished epochs are kept"
  if [[ -n $child ]]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" || true
  fi
  exit 143
}

finish() {
  local status=$?
  trap '' TERM USR1
  trap - EXIT
  if ((${#steps[@]})); then
    kill -TERM "${steps[@]}" 2>/dev/null || true
    local deadline=$((SECONDS + grace_s))
    while kill -0 "${steps[@]}" 2>/dev/null; do
      ((SECONDS < deadline)) || kill -KILL "${steps[@]}" 2>/dev/null || true
      sleep 1
    done
  fi
  rm -f -- "$token"
  if ((status == 0)); then
    place_on "${nodes[@]}"
    srun "${place[@]}" rm -rf -- "$scratch" || true
  elif [[ -n $requeue ]]; then
    scontrol requeue "$SLURM_JOB_ID"
  else
    say "ended with status $status; see $folder, and $scratch on the nodes"
  fi
  exit "$status"
}

# place_on NODE...: the options of a step with one task on each of these nodes. A step is started
# from the script itself, not by a function in the background: its process id must be srun's own.
place_on() {
  local IFS=,
  place=(--nodes="$#" --ntasks="$#" --ntasks-per-node=1 --nodelist="$*" --cpus-per-task="$cpus"
    --export=ALL --kill-on-bad-exit=0 --wait=0)
}

trap finish EXIT
trap 'stop again' USR1
trap 'stop ""' TERM

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
mkdir -p -- "$folder"
chmod 700 -- "$folder"
rm -f -- "$token"
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token")
cat >"$recipe" <<'@@{end}'
@@{recipe}@@{end}

# Ports of the head, from the job's number, so that two jobs on a node do not meet.
port=$((20000 + SLURM_JOB_ID % 4000 * 3))
place_on "${nodes[0]}"
ip=$(srun "${place[@]}" python -c 'import ray.util; print(ray.util.get_node_ip_address())')
address=$ip:$port
everywhere=(--block --num-cpus="$cpus" --num-gpus="$gpus" --temp-dir="$scratch" --disable-usage-stats
  --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0)

say "a cluster of ${#nodes[@]} nodes with $cpus CPUs and $gpus GPUs each, at $address"
srun "${place[@]}" ray start --head --node-ip-address="$ip" --port="$port" \
  --dashboard-host=127.0.0.1 --dashboard-port=$((port + 1)) --ray-client-server-port=$((port + 2)) \
  "${everywhere[@]}" >"$folder/head.log" 2>&1 &
steps+=($!)

deadline=$((SECONDS + patience_s))
until attend ray health-check --address "$address" >/dev/null 2>&1; do
  kill -0 "${steps[0]}" 2>/dev/null || fail "Ray must run on ${nodes[0]}, but ended; see $folder/head.log"
  ((SECONDS < deadline)) || fail "Ray must answer at $address in $patience_s s; see $folder/head.log"
  sleep 1
done

if ((${#nodes[@]} > 1)); then
  place_on "${nodes[@]:1}"
  srun "${place[@]}" ray start --address="$address" "${everywhere[@]}" >"$folder/workers.log" 2>&1 &
  steps+=($!)
fi

count_nodes='
import sys, time, ray
address, wanted, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
deadline = time.monotonic() + seconds
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < wanted:
    if time.monotonic() > deadline:
        sys.exit(1)
    time.sleep(1)
'
attend python -c "$count_nodes" "$address" "${#nodes[@]}" "$((deadline - SECONDS))" ||
  fail "all ${#nodes[@]} nodes must join in $patience_s s; see $folder/workers.log"

attend "${command[@]}" "$recipe" --runs "$runs" --address "$address" "${overrides[@]}"
