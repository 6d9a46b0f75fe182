#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs on every host of a slice, in the home folder; called by scripts/tpu_pod:
#   bash host.sh install COMMIT [--python=PATH] [--disk=FOLDER] [--mount=BUCKET --cache_mb=N]...
#       installs the code and its packages, mounts the disk and the buckets; does nothing twice
#   bash host.sh preflight COMMIT [--python=PATH] [--setenv=NAME=VALUE]... -- ARGUMENT...
#       checks the run on this host alone
#   bash host.sh run COMMIT [--python=PATH] [--setenv=NAME=VALUE]... -- ARGUMENT...
#       runs mrd_jax and waits until it exits
set -euo pipefail
task=$1 folder=$HOME/mrd_jax-$2
shift 2
python='' disk='' cache_mb=51200 buckets=() variables=()
while (($#)); do
    case $1 in
    --python=*) python=${1#*=} ;;
    --disk=*) disk=${1#*=} ;;
    --mount=*) buckets+=("${1#*=}") ;;
    --cache_mb=*) cache_mb=${1#*=} ;;
    --setenv=*) variables+=("$1") ;;
    --) shift && break ;;
    *) echo "host.sh: unknown option $1" >&2 && exit 2 ;;
    esac
    shift
done

install_code() {
    [[ -e $folder/installed ]] && return
    mkdir -p "$folder"
    tar -xzf "$folder.tar.gz" -C "$folder"
    if [[ -z $python ]]; then
        # The Python of the images is older than this package requires.
        curl -LsSf https://astral.sh/uv/install.sh | UV_NO_MODIFY_PATH=1 sh
        "$HOME/.local/bin/uv" venv --quiet --clear --python 3.12 "$folder/.venv"
        # The same versions on every host and after every restart.
        "$HOME/.local/bin/uv" pip install --quiet --python "$folder/.venv" \
            --constraints "$folder/constraints.txt" --editable "${folder}[tpu,gcs]"
    fi
    touch "$folder/installed"
}

as_service() {
    sudo systemd-run --quiet --collect --unit="$1" --uid="$(id -un)" "${@:2}"
}

mount_disk() {
    mountpoint -q "$disk" && return
    local device
    # The one disk with a file system that nothing is mounted from.
    device=$(lsblk --raw --noheadings --paths --output NAME,TYPE,FSTYPE,MOUNTPOINT |
        awk '$2 == "disk" && NF == 3 { print $1 }')
    if [[ $(wc -w <<< "$device") != 1 ]]; then
        echo "host.sh: found ${device:-no disk}; expected one disk with a file system" >&2
        exit 2
    fi
    sudo mkdir -p "$disk"
    # noload: a read-only disk cannot replay the journal of ext4.
    sudo mount -o ro,noload "$device" "$disk" || sudo mount -o ro "$device" "$disk"
}

install_gcsfuse() {
    command -v gcsfuse > /dev/null && return
    local key=/usr/share/keyrings/cloud.google.asc
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee $key > /dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
    sudo apt-get -qq -o DPkg::Lock::Timeout=600 install -y gcsfuse
}

mount_bucket() {
    local place=/mnt/gcs/$1 cache=/var/tmp/gcsfuse/$1
    mountpoint -q "$place" && return
    sudo install -d -o "$(id -un)" "$place" "$cache"
    # Data sets do not change, so that metadata is cached for good, and a file is cached whole when
    # a part of it is read.
    as_service "gcs-$1" --property=After=network-online.target -- \
        gcsfuse --foreground --implicit-dirs -o ro --cache-dir="$cache" \
        --file-cache-max-size-mb="$cache_mb" --file-cache-cache-file-for-range-read \
        --metadata-cache-ttl-secs=-1 "$1" "$place"
    timeout 60 bash -c "until mountpoint -q '$place'; do sleep 1; done" ||
        { sudo journalctl --unit="gcs-$1" --lines=20 --no-pager && return 1; }
}

# Runs Python in the folder of the code, as a service: its environment is that of no shell, and it
# does not end with the connection.
python_service() {
    sudo systemctl stop mrd_jax 2> /dev/null || true
    as_service mrd_jax --wait --property=TimeoutStopSec=300 --property=LimitMEMLOCK=infinity \
        ${variables[@]+"${variables[@]}"} --working-directory="$folder" \
        -- "${python:-$folder/.venv/bin/python}" "$@"
}

# Prints the end of the log and the exit status, which scripts/tpu_pod reads.
finish() {
    sudo journalctl --unit=mrd_jax --lines="$2" --output=cat --no-pager
    echo "host.sh: $(hostname): exit status $1"
    exit "$1"
}

case $task in
install)
    install_code
    if [[ -n $disk ]]; then mount_disk; fi
    if ((${#buckets[@]})); then install_gcsfuse; fi
    for bucket in ${buckets[@]+"${buckets[@]}"}; do mount_bucket "$bucket"; done
    ;;
preflight)
    # One chip of this host as a slice of its own: libtpu would wait for the other hosts.
    variables+=("--setenv=TPU_PROCESS_BOUNDS=1,1,1" "--setenv=TPU_VISIBLE_CHIPS=0"
        "--setenv=TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1")
    status=0
    python_service -m mrd_jax.main "$@" || status=$?
    finish "$status" 40
    ;;
run)
    status=0
    python_service -m mrd_jax.main --multihost "$@" || status=$?
    finish "$status" $((status ? 20 : 1))
    ;;
*)
    echo "host.sh: unknown task '$task'; expected install, preflight or run" >&2
    exit 2
    ;;
esac
