#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs on every host of a slice, in the home folder; called by scripts/tpu_pod.py:
#   bash tpu_host.sh install COMMIT BUCKET...   installs the code and mounts the buckets, once
#   bash tpu_host.sh run COMMIT ARGUMENT...     runs mrd_jax and waits until it exits
set -euo pipefail
shopt -s nullglob
task=$1 folder=$HOME/mrd_jax-$2
shift 2

install_code() {
    [[ -e $folder/installed ]] && return
    # The Python of the images is older than this package requires.
    curl -LsSf https://astral.sh/uv/install.sh | UV_NO_MODIFY_PATH=1 sh
    mkdir -p "$folder"
    tar -xzf "$folder.tar.gz" -C "$folder"
    "$HOME/.local/bin/uv" venv --quiet --clear --python 3.12 "$folder/.venv"
    "$HOME/.local/bin/uv" pip install --quiet --python "$folder/.venv" --editable "${folder}[tpu]"
    touch "$folder/installed"
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
    mountpoint -q "/gs/$1" && return
    sudo install -d -o "$(id -un)" "/gs/$1"
    # Metadata is not cached, so that every host sees the files that the others write.
    as_service "gs-$1" --property=After=network-online.target -- \
        gcsfuse --foreground --implicit-dirs --metadata-cache-ttl-secs=0 \
        --metadata-cache-negative-ttl-secs=0 "$1" "/gs/$1"
    timeout 60 bash -c "until mountpoint -q '/gs/$1'; do sleep 1; done" ||
        { sudo journalctl --unit="gs-$1" --lines=20 --no-pager && return 1; }
}

# A service survives a lost connection, and is stopped gracefully if its machine is preempted.
as_service() {
    sudo systemd-run --quiet --collect --unit="$1" --uid="$(id -un)" "${@:2}"
}

run() {
    sudo systemctl stop mrd_jax 2> /dev/null || true
    # Started after the mounts and thus stopped before them: the last checkpoint needs them.
    local mounts=(/gs/*) status=0
    mounts=("${mounts[@]/#\/gs\//gs-}")
    as_service mrd_jax --wait --property=After="${mounts[*]/%/.service}" \
        --property=TimeoutStopSec=300 --property=LimitMEMLOCK=infinity \
        --working-directory="$folder" -- \
        "$folder/.venv/bin/python" -m mrd_jax.main --multihost "$@" || status=$?
    sudo journalctl --unit=mrd_jax --lines=20 --output=cat --no-pager
    return $status
}

case $task in
install)
    install_code
    install_gcsfuse
    for bucket in "$@"; do mount_bucket "$bucket"; done
    ;;
run) run "$@" ;;
*)
    echo "tpu_host.sh: unknown task '$task'; expected install or run" >&2
    exit 2
    ;;
esac
