#!/bin/sh
# shellcheck disable=SC2016  # words in single quotes with a dollar are for the workers' shell
# Trains xclip_jax on a Cloud TPU slice, or on several, and keeps it training.
#
#   ./launch_tpu.sh [--dry-run] COMMAND [ARGUMENTS]
#
#   data      copy the shards in SHARDS to the bucket at DATA, the manifest last
#   create    rent the slice, as TPU_CREATE says; a queued one is there when `status` says READY.
#             First `xclip-jax plan` checks here that a run with ARGUMENTS fits and has weights
#   setup     install this clone on all its workers
#   train     start training on all workers; ARGUMENTS go to `xclip-jax train`: --from-clip FILE,
#             --config.KEY=VALUE. The same command again resumes the run in the same WORKDIR
#   watch     create, setup and train whenever that is needed, after a preemption for one, until
#             WORKDIR/finished is there; ARGUMENTS as for train. With --delete it gives the slice back
#             when the run is finished, exits with 2 or is given up. Interrupting it, or `stop`,
#             leaves the slice as it is
#   eval      evaluate the run on all workers; ARGUMENTS go to `xclip-jax eval`: --split test
#   status    print the state of the slice, the workers and the run
#   logs      print the last 100 lines of a worker's log; --follow goes on printing
#   stop      let the run save and end (SIGTERM), which ends `watch` too; the slice stays, and costs
#   delete    give the slice back; asks first, unless --yes. The bucket is not touched
#   jobset    print a JobSet that trains on GKE, for `kubectl apply -f -`; ARGUMENTS as for train.
#             It needs IMAGE, and is the way to tpu7x, which `gcloud compute tpus` does not rent
#
#   --dry-run prints the commands that would be run, ready to paste, and runs none.
#
# docs/pods.md lists what must exist first. Commands reach all workers at once, for which gcloud
# needs its key in the agent:
#   ssh-add ~/.ssh/google_compute_engine
#
# Variables: export them, or write VARIABLE=value before the command.
: "${TPU_NAME:=xclip}"          # the slice, and the queued resource
: "${TPU_ZONE:=us-west4-a}"     # where it is
: "${TPU_PROJECT:=}"            # the project that pays (default: gcloud's own)
: "${TPU_TYPE:=v5litepod-16}"   # as Google names it: v4-32, v5litepod-64 (v5e), v5p-128, v6e-64, tpu7x-128
: "${TPU_TOPOLOGY:=}"           # chips along its axes, as 8x8 (default: the usual ones for TPU_TYPE)
: "${TPU_RUNTIME:=}"            # software of the workers (default: the one for TPU_TYPE)
: "${TPU_CREATE:=on-demand}"    # on-demand, spot, queued or queued-spot
: "${TPU_SLICES:=1}"            # slices of TPU_TYPE in one run; more than 1 have to be queued
: "${CREATE_FLAGS:=}"           # more flags for create: --reserved, --network=N --internal-ips
: "${SSH_FLAGS:=}"              # more flags for ssh and scp: --internal-ip
: "${SHARDS:=}"                 # folder of shards here, or gs://, that `data` copies
: "${DATA:=}"                   # where the shards are in the bucket: gs://BUCKET/shards/NAME
: "${CONFIG:=}"                 # --config of the training: msrvtt:arch=vit_b16
: "${WORKDIR:=}"                # --workdir of the run: gs://BUCKET/runs/NAME
: "${PLAN:=check}"              # before renting, check that the run fits; skip: rent unchecked
: "${ENVIRONMENT:=}"            # variables of the run: LIBTPU_INIT_ARGS='--a --b' KEY=value
: "${SETUP_COMMAND:=true}"      # run on each worker after installing: xclip-jax download clip:ViT-B/16 --out .
: "${PYTHON_VERSION:=3.12}"     # of the workers' environment, which uv fetches
: "${REMOTE:=xclip_jax}"        # folder in the workers' home for environment, log and pid
: "${NODE:=0}"                  # slice whose log `logs` shows
: "${WORKER:=0}"                # worker whose log `logs` shows
: "${POLL_SECONDS:=60}"         # between two checks by `watch`; after failures up to 32 times as long
: "${WATCH_TRIES:=20}"          # attempts of `watch` without a new checkpoint before it gives up
: "${CRASH_TRIES:=3}"          # crashes (exit code 1) without a new checkpoint before it gives up
: "${STOP_SECONDS:=300}"        # seconds that `stop` waits for the run to save
: "${IMAGE:=}"                  # of `jobset`: a container image with this package installed
: "${SERVICE_ACCOUNT:=default}" # of `jobset`: the Kubernetes account that may use the bucket
: "${GCLOUD:=gcloud}"           # 'gcloud alpha' for SSH_FLAGS=--tunnel-through-iap
# End of the help.

set -euf
HERE=$(cd "$(dirname "$0")" && pwd)
ERRORS=/dev/null # becomes a file where a command's errors are looked at

help() {
  sed -n -e '/^# End of the help/q' -e 1,2d \
    -e 's/^: "\${\([A-Z_]*\):=\(.*\)}" *# \(.*\)/  \1=\2|\3/' -e 's/^# \{0,1\}//' -e p "$0" |
    awk -F '|' 'NF == 2 { printf "%-28s %s\n", $1, $2; next } { print }'
}

die() {
  echo "launch_tpu.sh: $*" >&2
  [ -z "$SPENT" ] || give_back || true
  exit 1
}

say() { # what happens, with the time; in a dry run a comment among the commands
  if [ "$DRY_RUN" ]; then echo "# $*"; else echo "$(date -u +%FT%TZ) $*"; fi >&3
}

quote() { # one word as a shell has to be given it
  case $1 in
    '' | *[!a-zA-Z0-9_./:=,@%+-]*)
      quoted=$(printf %s. "$1" | sed "s/'/'\\\\''/g") # the dot keeps a newline at the end
      printf "'%s'" "${quoted%.}"
      ;;
    *) printf %s "$1" ;;
  esac
}

quote_all() { # a command line
  quote "$1"
  shift
  for word; do
    printf ' '
    quote "$word"
  done
}

run() { # prints a command, and runs it unless this is a dry run
  [ "$DRY_RUN" ] || printf '+ ' >&3
  { quote_all "$@" && echo; } >&3
  [ "$DRY_RUN" ] || "$@"
}

ask() { # likewise for a question: its errors go to a file, and it is not announced
  if [ "$DRY_RUN" ]; then run "$@"; else "$@" 2>"$ERRORS"; fi
}

tpus() { # HOW FAMILY VERB WORD...: gcloud compute tpus, in our zone and project
  how=$1
  shift
  # shellcheck disable=SC2086
  $how $GCLOUD compute tpus "$@" --zone="$TPU_ZONE" ${TPU_PROJECT:+--project="$TPU_PROJECT"}
}

storage() { # HOW WORD...: gcloud storage
  how=$1
  shift
  # shellcheck disable=SC2086
  $how $GCLOUD storage "$@"
}

on_workers() { # HOW WORKERS COMMAND: a command of their shell, by ssh
  # shellcheck disable=SC2086
  tpus "$1" $REACH ssh "$TPU_NAME" $2 $SSH_FLAGS --command="$3"
}

to_workers() { # FILE PLACE: copies a file to a place in the home of each
  # shellcheck disable=SC2086
  tpus run $REACH scp "$1" "$TPU_NAME:$2" $ALL $SSH_FLAGS
}

check_variables() { # COMMAND: all that is wrong, a line each
  wrong=$(
    is() { if printf '%s\n' "$2" | grep -Evq -- "$3"; then echo "$1=$2: expected $4"; fi; }
    is TPU_NAME "$TPU_NAME" '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$' \
      "small letters, digits and '-', a letter first"
    is TPU_ZONE "$TPU_ZONE" '^[a-z]+-[a-z]+[0-9]+-[a-z0-9]+$' "a zone: us-west4-a, europe-west4-b"
    is TPU_PROJECT "$TPU_PROJECT" '^([a-z0-9.:-]+)?$' "a project's id"
    is TPU_TOPOLOGY "$TPU_TOPOLOGY" '^([0-9]+x[0-9]+(x[0-9]+)?)?$' "chips along each axis: 8x8, 4x4x4"
    case $1:$TPU_TYPE in
      jobset:tpu7x-[0-9]*) ;;
      *:tpu7x-*) echo "TPU_TYPE=$TPU_TYPE: \`gcloud compute tpus\` does not rent it; \`jobset\` trains there" ;;
      *:v5e[-:]*) echo "TPU_TYPE=$TPU_TYPE: gcloud calls v5e v5litepod; v5litepod-64 has 64 chips" ;;
      *) is TPU_TYPE "$TPU_TYPE" '^v[0-9]+[a-z]*-[0-9]+$' "a type of Google's: v5litepod-64, v5p-128" ;;
    esac
    is TPU_CREATE "$TPU_CREATE" '^(on-demand|spot|queued|queued-spot)$' \
      "on-demand, spot, queued or queued-spot"
    is IMAGE "$IMAGE" '^[a-zA-Z0-9./:@_-]*$' "an image's name: REGISTRY/PROJECT/NAME:TAG"
    is SERVICE_ACCOUNT "$SERVICE_ACCOUNT" '^[a-z0-9.-]+$' "the name of a Kubernetes service account"
    is PLAN "$PLAN" '^(check|skip)$' "check or skip"
    is ENVIRONMENT "$ENVIRONMENT" '^([A-Za-z_][A-Za-z0-9_]*=.*)?$' "NAME=VALUE NAME=VALUE"
    for name in TPU_SLICES WATCH_TRIES CRASH_TRIES; do
      is $name "$(eval "echo \"\$$name\"")" '^[1-9][0-9]*$' "a number from 1"
    done
    for name in POLL_SECONDS STOP_SECONDS NODE; do
      is $name "$(eval "echo \"\$$name\"")" '^[0-9]+$' "a number from 0"
    done
    is WORKER "$WORKER" '^([0-9]+|all)$' "a number from 0, or all"
    is PYTHON_VERSION "$PYTHON_VERSION" '^3\.(1[1-9]|[2-9][0-9])(\.[0-9]+)?$' "3.11 or newer"
    is REMOTE "$REMOTE" '^[a-zA-Z0-9_.][a-zA-Z0-9_./-]*$' "a folder in the home of the workers"
    [ "$1" = jobset ] || case $TPU_SLICES:$TPU_CREATE in
      1:* | *[!0-9]*:* | *:queued*) ;;
      *) echo "TPU_SLICES=$TPU_SLICES: only queued resources join slices; set TPU_CREATE=queued" ;;
    esac
    is DATA "$DATA" '^(gs://[^/]+/.+)?$' "gs://BUCKET/FOLDER"
    is WORKDIR "$WORKDIR" '^(gs://[^/]+/.+)?$' \
      "gs://BUCKET/FOLDER: all workers write there, and their disks go with a slice"
    case $1 in
      train | watch | jobset)
        [ "$CONFIG" ] || echo "CONFIG is empty: set it to what --config gets, msrvtt say"
        [ "$WORKDIR" ] || echo "WORKDIR is empty: set it to the run's folder, gs://BUCKET/runs/NAME"
        [ "$1$IMAGE" != jobset ] || echo "IMAGE is empty: set it to an image with this package; docs/pods.md has a recipe"
        ;;
      eval) [ "$WORKDIR" ] || echo "WORKDIR is empty: set it to the run's folder, gs://BUCKET/runs/NAME" ;;
      data)
        [ "$DATA" ] || echo "DATA is empty: set it to a folder in a bucket, gs://BUCKET/shards/NAME"
        case $SHARDS in
          gs://*) ;;
          *) [ -f "$SHARDS/manifest.json" ] ||
            echo "SHARDS=$SHARDS: expected a folder of shards, which has a manifest.json" ;;
        esac
        ;;
    esac
  )
  [ -z "$wrong" ] || {
    printf '%s\n' "$wrong" | sed 's/^/launch_tpu.sh: /' >&2
    exit 2
  }
}

derive_names() {
  WORKDIR=${WORKDIR%/} DATA=${DATA%/} SHARDS=${SHARDS%/}
  case $TPU_CREATE in queued*) FAMILY=queued-resources ;; *) FAMILY=tpu-vm ;; esac
  case $TPU_CREATE in *spot) SPOT=--spot ;; *) SPOT= ;; esac
  if [ "$TPU_SLICES" -gt 1 ]; then
    REACH=queued-resources ALL='--node=all --worker=all' ONE="--node=$NODE --worker=$WORKER"
    NODES=$(awk -v n="$TPU_SLICES" -v name="$TPU_NAME" 'BEGIN { while (i < n) print name "-" i++ }')
  else
    REACH=tpu-vm ALL=--worker=all ONE="--worker=$WORKER" NODES=$TPU_NAME
  fi
  [ "$TPU_RUNTIME" ] || case $TPU_TYPE in
    v5lite*) TPU_RUNTIME=v2-alpha-tpuv5-lite ;;
    v5p*) TPU_RUNTIME=v2-alpha-tpuv5 ;;
    v6e*) TPU_RUNTIME=v2-alpha-tpuv6e ;;
    *) TPU_RUNTIME=tpu-ubuntu2204-base ;;
  esac
  number=${TPU_TYPE##*-}
  case $TPU_TYPE in
    v5lite* | v6e*) CHIPS=$number AXES=2 ;;
    *) CHIPS=$((number / 2)) AXES=3 ;; # v4, v5p and tpu7x are named by their cores, two a chip
  esac
  [ "$TPU_TOPOLOGY" ] || TPU_TOPOLOGY=$(
    awk -v chips="$CHIPS" -v axes=$AXES 'BEGIN {
      a = b = axes == 3 ? 2 : 1; c = 1
      while (a * b * c < chips) {
        if (axes == 2) { if (a == b) b *= 2; else a *= 2 }
        else if (c <= a) c *= 2; else if (b < c) b *= 2; else a *= 2
      }
      if (a * b * c == chips) print a "x" b (axes == 3 ? "x" c : "")
    }'
  )
  [ "$TPU_TOPOLOGY" ] || die "TPU_TYPE=$TPU_TYPE has no usual shape of $CHIPS chips: set TPU_TOPOLOGY"
  case $TPU_TYPE in
    v5lite*) GENERATION=v5e ACCELERATOR=tpu-v5-lite-podslice ;;
    v5p*) GENERATION=v5p ACCELERATOR=tpu-v5p-slice ;;
    v6e*) GENERATION=v6e ACCELERATOR=tpu-v6e-slice ;;
    tpu7x*) GENERATION=tpu7x ACCELERATOR=tpu7x ;;
    *) GENERATION=${TPU_TYPE%%-*} ACCELERATOR=tpu-${TPU_TYPE%%-*}-podslice ;;
  esac
  PLANNED=$GENERATION:$TPU_TOPOLOGY # as `xclip-jax plan` calls it
  [ "$TPU_SLICES" = 1 ] || PLANNED=$PLANNED:$TPU_SLICES
  # A number used again after a reboot, or a process that is gone, has another command line.
  ALIVE='grep -qs xclip-jax "/proc/$(cat train.pid 2>/dev/null)/cmdline"'
  # One line a worker, of which `watch` knows the words. A run that has just ended gets the moment
  # it takes to write its exit code down; one that a reboot ended has none.
  REPORT="if ! cd $REMOTE 2>/dev/null || [ ! -e setup.done ]; then s=new; elif $ALIVE; then s=running;"
  REPORT="$REPORT elif [ -e train.pid ] && [ ! -e train.exit ] && sleep 1 && false; then :;"
  REPORT="$REPORT elif [ -e train.stopped ]; then s=stopped; elif [ -e train.exit ]; then"
  REPORT="$REPORT s=\"ended with code \$(cat train.exit).\"; else s=idle; fi; echo \"\$(hostname): \$s\""
}

data() {
  # As a build does it: what looks for shards finds none before all of them are there.
  storage run rsync --recursive '--exclude=(.*/)?manifest\.json$' "$SHARDS" "$DATA" &&
    storage run cp "$SHARDS/manifest.json" "$DATA/manifest.json"
}

check_plan() { # WORD...: for xclip-jax train; ends here where the run is not worth renting for
  case $PLAN:$CONFIG in
    skip:*) return 0 ;;
    *:)
      say "CONFIG is empty, so nothing was checked by \`xclip-jax plan\`"
      return 0
      ;;
  esac
  planner=$HERE/.venv/bin/xclip-jax
  [ -x "$planner" ] || planner=xclip-jax
  [ "$DRY_RUN" ] || command -v "$planner" >/dev/null ||
    die "checking the run first needs xclip-jax here (pip install '.[plan]', Linux on x86_64); PLAN=skip rents unchecked."
  left=$# takes=
  while [ "$left" -gt 0 ]; do # of the words those that plan takes too
    word=$1 left=$((left - 1))
    shift
    case $takes:$word in
      yes:* | :--config.*=* | :--from-clip=*) set -- "$@" "$word" && takes= ;;
      :--from-clip) set -- "$@" "$word" && takes=yes ;;
    esac
  done
  say "checking that the run fits $PLANNED, here and for minutes, before anything is rented"
  run "$planner" plan --check --config "$CONFIG" --topology "$PLANNED" "$@" >&3 ||
    die "nothing was rented: see above what to change; PLAN=skip rents all the same."
}

create() {
  # shellcheck disable=SC2086
  case $FAMILY:$TPU_SLICES in
    tpu-vm:*)
      tpus run tpu-vm create "$TPU_NAME" --accelerator-type="$TPU_TYPE" --version="$TPU_RUNTIME" \
        $SPOT $CREATE_FLAGS
      ;;
    *:1)
      tpus run queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
        --accelerator-type="$TPU_TYPE" --runtime-version="$TPU_RUNTIME" $SPOT $CREATE_FLAGS
      ;;
    *)
      tpus run queued-resources create "$TPU_NAME" --node-count="$TPU_SLICES" \
        --node-prefix="$TPU_NAME" --accelerator-type="$TPU_TYPE" \
        --runtime-version="$TPU_RUNTIME" $SPOT $CREATE_FLAGS
      ;;
  esac
}

jobset() { # WORD...: for xclip-jax train; prints YAML
  words=$(quote_all train --distributed --config "$CONFIG" --workdir "$WORKDIR" \
    ${DATA:+"--config.data.dir=$DATA"} "$@")
  hosts=$(((CHIPS + 3) / 4))
  # A shell that is process 1 passes no signal on by itself. What was told to stop, and saved, is no
  # success: GKE would leave it at that.
  script="($SETUP_COMMAND) || exit 75
${ENVIRONMENT:+$ENVIRONMENT }xclip-jax $words &
trap 'kill -TERM \$!' TERM
code=0; wait \$! || code=\$?
while kill -0 \$! 2>/dev/null; do code=0; wait \$! || code=\$?; done
if [ \$code = 0 ]; then
  python3 -c 'import fsspec.core, sys; files, path = fsspec.core.url_to_fs(sys.argv[1]); sys.exit(not files.exists(path))' \\
    $(quote "$WORKDIR/finished") || code=75
fi
exit \$code"
  cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $TPU_NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $WATCH_TRIES # preemptions, lost processes and crashes count alike
    restartStrategy: BlockingRecreate
    rules:
      - name: settings
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $TPU_SLICES
      template:
        spec:
          completionMode: Indexed
          completions: $hosts
          parallelism: $hosts
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: xclip, operator: In, values: [2]}
          template:
            spec:
              restartPolicy: Never
              serviceAccountName: $SERVICE_ACCOUNT
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              terminationGracePeriodSeconds: $STOP_SECONDS
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
                cloud.google.com/gke-tpu-topology: $TPU_TOPOLOGY
${SPOT:+                cloud.google.com/gke-spot: \"true\"
              tolerations:
                - {key: cloud.google.com/gke-spot, operator: Equal, value: \"true\", effect: NoSchedule\}
}              containers:
                - name: xclip
                  image: $IMAGE
                  resources:
                    limits: {google.com/tpu: $((CHIPS / hosts))}
                  command: [/bin/sh, -c]
                  args:
                    - |
$(printf '%s\n' "$script" | sed 's/^/                      /')
END
}

setup() {
  package=$HERE/build/launch_tpu/xclip_jax.tgz
  install="cd $REMOTE && if $ALIVE; then echo \"\$(hostname): training; stop it first\" >&2; exit 1; fi"
  install="$install; rm -rf setup.done src && mkdir src && tar -xzf xclip_jax.tgz -C src"
  # The workers' own Python is older than ours, hence uv; newer systems let pip not touch --user.
  install="$install && PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv"
  install="$install && python3 -m uv venv --quiet --allow-existing --python $PYTHON_VERSION .venv"
  install="$install && python3 -m uv pip install --quiet --python .venv/bin/python"
  install="$install --reinstall-package xclip_jax -c src/constraints.txt './src[tpu]' gcsfs"
  install="$install && PATH=\"\$PWD/.venv/bin:\$PATH\" sh -c $(quote "$SETUP_COMMAND") && touch setup.done"
  run mkdir -p "$HERE/build/launch_tpu" &&
    run tar -czf "$package" --exclude=__pycache__ -C "$HERE" \
      pyproject.toml constraints.txt README.md LICENSE xclip_jax configs data &&
    on_workers run "$ALL" "mkdir -p $REMOTE" &&
    to_workers "$package" "$REMOTE/xclip_jax.tgz" &&
    on_workers run "$ALL" "$install"
}

train() { # WORD...: for xclip-jax train
  words=$(quote_all train --distributed --config "$CONFIG" --workdir "$WORKDIR" \
    ${DATA:+"--config.data.dir=$DATA"} "$@")
  start="cd $REMOTE && [ -e setup.done ] || { echo \"\$(hostname): not set up\" >&2; exit 1; }"
  start="$start; if $ALIVE; then echo \"\$(hostname): already running\"; exit 0; fi"
  # What nohup does, for the shell too that waits to write the exit code down.
  start="$start; rm -f train.pid train.exit train.stopped; (trap '' HUP; date;"
  start="$start $ENVIRONMENT PYTHONUNBUFFERED=1 .venv/bin/xclip-jax $words & echo \$! >train.pid;"
  start="$start wait \$!; echo \$? >train.exit) >>train.log 2>&1 </dev/null &"
  start="$start until [ -s train.pid ]; do sleep 0.1; done; echo \"\$(hostname): started\""
  on_workers run "$ALL" "$start"
}

evaluate() { # WORD...: for xclip-jax eval
  words=$(quote_all eval --distributed --workdir "$WORKDIR" "$@")
  begin="cd $REMOTE && [ -e setup.done ] || { echo \"\$(hostname): not set up\" >&2; exit 1; }"
  begin="$begin; if $ALIVE; then echo \"\$(hostname): training; stop it first\" >&2; exit 1; fi"
  on_workers run "$ALL" "$begin; $ENVIRONMENT .venv/bin/xclip-jax $words"
}

stop() {
  end="cd $REMOTE && touch train.stopped || exit 1; if $ALIVE; then kill -TERM \"\$(cat train.pid)\"; fi; n=0;"
  end="$end while $ALIVE && [ \$n -lt $STOP_SECONDS ]; do sleep 1; n=\$((n+1)); done;"
  end="$end if $ALIVE; then echo \"\$(hostname): still running after $STOP_SECONDS s\" >&2; exit 1;"
  end="$end else echo \"\$(hostname): ended\"; fi"
  on_workers run "$ALL" "$end"
}

logs() {
  on_workers run "$ONE" "tail -n 100 $FOLLOW $REMOTE/train.log"
}

release() {
  case $FAMILY in
    tpu-vm) tpus run tpu-vm delete "$TPU_NAME" --quiet ;;
    # With --force its slices go too.
    *) tpus run queued-resources delete "$TPU_NAME" --force --quiet ;;
  esac
}

give_back() { # what `watch --delete` does in the end; a slice that stays costs, so it insists
  SPENT='' left=5
  until release; do
    if slice_state && [ "$STATE" = NOT_FOUND ]; then return 0; fi
    left=$((left - 1))
    [ $left -gt 0 ] || {
      say "$TPU_NAME could not be deleted and may cost on: try \`delete\`"
      return 1
    }
    sleep "$POLL_SECONDS"
  done
}

delete() {
  if [ -z "$DRY_RUN$YES" ]; then
    printf 'Delete %s in %s, with what lies on its disks? [y/N] ' "$TPU_NAME" "$TPU_ZONE"
    read -r answer || answer=
    case $answer in y | Y | yes) ;; *) die "$TPU_NAME was not deleted." ;; esac
  fi
  release
}

describe() { # FAMILY NAME FIELD: sets STATE; fails where gcloud does for another reason than absence
  if STATE=$(tpus ask "$1" describe "$2" --format="value($3)"); then
    return 0
  elif grep -Eiq 'not[_ ]found|404' "$ERRORS" && grep -Eq "/$2([^a-z0-9-]|\$)" "$ERRORS"; then
    STATE=NOT_FOUND
  else
    cat "$ERRORS" >&2
    return 1
  fi
}

slice_state() { # sets STATE: READY if all is, else the first state that is not
  if [ "$FAMILY" = queued-resources ]; then
    describe queued-resources "$TPU_NAME" state.state || return 1
    case $STATE in ACTIVE | '') ;; *) return 0 ;; esac
  fi
  for node in $NODES; do
    describe tpu-vm "$node" state || return 1
    case $FAMILY:$STATE in
      queued-resources:NOT_FOUND) STATE=PREEMPTED ;; # the request is there, a slice is not
    esac
    case $STATE in READY | '') ;; *) return 0 ;; esac
  done
}

is_finished() { # sets FINISHED to yes or no; fails where that cannot be told
  if storage ask ls "$WORKDIR/finished" >/dev/null; then
    FINISHED=yes
  elif grep -q 'matched no objects' "$ERRORS"; then
    FINISHED=no
  else
    cat "$ERRORS" >&2
    return 1
  fi
}

status() {
  slice_state || exit 1
  [ "$DRY_RUN" ] || echo "slice $TPU_NAME: $STATE"
  case $STATE in
    READY | '')
      on_workers ask "$ALL" "$REPORT; [ ! -s train.log ] || tail -n 1 train.log" || {
        cat "$ERRORS" >&2
        exit 1
      }
      ;;
  esac
  if [ "$WORKDIR" ]; then
    is_finished || exit 1
    [ "$DRY_RUN" ] || echo "finished: $FINISHED"
  fi
}

watch_once() { # WORD...: one look, at most one step; sets DID to waited, stepped, failed or ended
  DID=failed
  is_finished || return 0
  if [ "$FINISHED" = yes ]; then
    say "$WORKDIR/finished is there: the run is finished."
    [ "$DELETE" ] || say "$TPU_NAME, if it is there, stays and costs: \`delete\` gives it back."
    DID=ended
    return 0
  fi
  slice_state || return 0
  case $STATE in
    READY) ;;
    NOT_FOUND)
      SPENT='' # there is nothing to give back yet
      [ "$checked" ] || check_plan "$@"
      checked=yes SPENT=$DELETE
      say "there is no $TPU_NAME: creating it"
      if create; then DID=stepped; fi
      return 0
      ;;
    PREEMPTED | TERMINATED | SUSPENDED | FAILED)
      say "$TPU_NAME is $STATE: deleting it and creating it anew"
      if release && create; then DID=stepped; fi
      return 0
      ;;
    STOPPED | HIDDEN)
      SPENT=''
      die "$TPU_NAME is $STATE, which someone did: start it, or delete it."
      ;;
    *)
      say "$TPU_NAME is $STATE: waiting"
      DID=waited
      return 0
      ;;
  esac
  if ! workers=$(on_workers ask "$ALL" "$REPORT"); then
    cat "$ERRORS" >&2
    return 0
  fi
  # What ended before this watch began is no reason to end it: someone wants to go on.
  case $begun$workers in
    *': running'*) DID=waited begun=yes ;; # if only on some, theirs end soon for want of the others
    yes*': stopped'*)
      SPENT=''
      die "the run was stopped by \`stop\`; \`train\` and \`watch\` go on with it."
      ;;
    yes*'code 75.'*) # even beside a 2: what a bucket did not answer may look like a wrong setting
      say "a bucket did not answer in time: starting the run again"
      if train "$@"; then DID=stepped; fi
      ;;
    yes*'code 2.'*)
      logs || true
      die "the run ended with code 2, for a wrong setting or a loss that is not finite: see the log above."
      ;;
    yes*'code 1.'*) crashed "$@" ;;
    *': new'*)
      say "setting $TPU_NAME up"
      if setup && train "$@"; then DID=stepped begun=yes; fi
      ;;
    *)
      say "no training on $TPU_NAME: starting it"
      printf '%s\n' "$workers"
      if train "$@"; then DID=stepped begun=yes; fi
      ;;
  esac
}

crashed() { # WORD...: starts again after a fault of the program, which seldom heals by itself
  now=$(whole_checkpoints) || now=''
  [ "$now" = "$before" ] || crashes=0
  before=$now crashes=$((crashes + 1))
  [ $crashes -lt "$CRASH_TRIES" ] || {
    logs || true
    die "the run crashed $crashes times without a new checkpoint; the log above says how."
  }
  say "the run crashed on $TPU_NAME ($crashes of $CRASH_TRIES without a new checkpoint): starting it again"
  printf '%s\n' "$workers"
  if train "$@"; then DID=stepped; fi
}

whole_checkpoints() { # Orbax writes this file last: without it one is half-written
  storage ask ls "$WORKDIR/checkpoints/*/commit_success.txt"
}

count_try() { # a new checkpoint pays for all attempts before it
  if now=$(whole_checkpoints) && [ "$now" != "$saved" ]; then
    saved=$now tries=0
  fi
  tries=$((tries + 1))
  [ $tries -le "$WATCH_TRIES" ] ||
    die "gave up after $WATCH_TRIES attempts without a new checkpoint in $WORKDIR; see status and logs."
}

watch() { # WORD...: for xclip-jax train
  exec </dev/null # nobody answers gcloud's questions here: it takes their defaults
  tries=0 crashes=0 begun='' checked='' before='' SPENT=$DELETE
  # What fails at the very first look seldom heals: someone is there to mend it.
  is_finished || die "cannot look into $WORKDIR, as gcloud says above: is it logged in, is the bucket there?"
  saved=$(whole_checkpoints) || saved='' # there may be none yet
  while :; do
    watch_once "$@"
    delay=$POLL_SECONDS
    case $DID in
      ended)
        [ -z "$DELETE" ] || give_back
        return
        ;;
      stepped) count_try ;;
      failed)
        count_try
        delay=$((POLL_SECONDS * (1 << (tries < 5 ? tries : 5))))
        say "that failed; attempt $tries of $WATCH_TRIES; again in $delay s"
        ;;
    esac
    sleep "$delay"
  done
}

plan_watch() { # what `watch` runs, and when
  say "every $POLL_SECONDS s: is the run finished, is the slice there, what do the workers do?"
  is_finished
  slice_state
  on_workers ask "$ALL" "$REPORT"
  say "where there is no slice:"
  check_plan "$@"
  create
  say "where the slice was preempted:"
  release
  create
  say "where the slice is new:"
  setup
  say "where it is new, or no training runs:"
  train "$@"
  say "after each of these, whether the attempts bring checkpoints:"
  whole_checkpoints
  [ -z "$DELETE" ] || {
    say "when the run is finished or given up:"
    release
  }
}

interrupted() {
  [ "$COMMAND" != watch ] || say "interrupted: $TPU_NAME, if it is there, stays and costs."
  exit 130
}

DRY_RUN='' YES='' FOLLOW='' DELETE='' SPENT='' COMMAND=''
for word; do
  shift
  case $word in
    --dry-run) DRY_RUN=yes ;;
    --yes) YES=yes ;;
    --follow) FOLLOW=-F ;;
    --delete) DELETE=yes ;;
    -h | --help)
      help
      exit 0
      ;;
    *)
      if [ "$COMMAND" ]; then set -- "$@" "$word"; else COMMAND=$word; fi
      ;;
  esac
done
case $COMMAND in
  data | setup | status | logs | stop | delete)
    [ $# = 0 ] || die "$COMMAND takes no $1; see ./launch_tpu.sh --help"
    ;;
  create | train | watch | eval | jobset) ;;
  '') die "which command? ./launch_tpu.sh --help lists them." ;;
  *) die "there is no command $COMMAND; see ./launch_tpu.sh --help" ;;
esac
[ -z "$DELETE" ] || [ "$COMMAND" = watch ] || die "--delete goes with watch; see ./launch_tpu.sh --help"
check_variables "$COMMAND"
derive_names
if [ "$DRY_RUN" ]; then
  exec 3>&1
  [ "$COMMAND" != watch ] || COMMAND=plan_watch
else
  exec 3>&2
  [ "$COMMAND" = jobset ] || command -v "${GCLOUD%% *}" >/dev/null ||
    die "GCLOUD=$GCLOUD: not found; install the Google Cloud CLI, or try --dry-run."
  ERRORS=$(mktemp)
  trap 'rm -f "$ERRORS"' EXIT
  trap interrupted INT TERM
fi
case $COMMAND in
  create)
    check_plan "$@"
    create
    ;;
  jobset)
    check_plan "$@"
    jobset "$@"
    ;;
  eval) evaluate "$@" ;; # the name is taken in a shell
  *) "$COMMAND" "$@" ;;
esac
