# SPDX-License-Identifier: Apache-2.0
"""The slice: the gcloud commands that create, access, watch and delete it."""

import argparse
import json
import pathlib
import shlex
from typing import Any

from scripts.tpu_pod import commands
from scripts.tpu_pod import options as option_parsing

# Script that runs on the hosts.
HOST = pathlib.Path(__file__).with_name("host.sh")
# States of a queued resource, and of a node that will not come back
# (cloud.google.com/tpu/docs/reference/rest/v2/projects.locations).
READY, GONE = "ACTIVE", ("FAILED", "SUSPENDED")
_LOST_NODE = ("PREEMPTED", "TERMINATED", "DELETING", "STOPPED", "STOPPING", "HIDDEN", "UNKNOWN")


class Slice:
    """A queued resource of one node, or of several with --node_count, and their hosts.

    Attributes:
      options: options of the launcher.
    """

    def __init__(self, options: argparse.Namespace):
        """Describes the slice.

        Args:
          options: result of `options.parse`.
        """
        self.options = options
        self._place = [f"--zone={options.zone}"]
        if options.project:
            self._place.append(f"--project={options.project}")

    def create(self) -> list[str]:
        """Requests the slice; Cloud TPU queues the request until there is capacity."""
        o = self.options
        values = {
            "accelerator-type": o.type,
            "runtime-version": o.runtime,
            "service-account": o.service_account,
            "network": o.network,
            "subnetwork": o.subnetwork,
            "labels": o.labels,
            "data-disk": o.data_disk and f"source={o.data_disk},mode=read-only",
        }
        if o.node_count == 1:
            values["node-id"] = o.name
        else:
            values |= {"node-count": o.node_count, "node-prefix": o.name}
        flags = {"spot": o.spot, "reserved": o.reserved, "internal-ips": o.internal_ips}
        return [
            *self._resources("create", o.name),
            *(f"--{name}={value}" for name, value in values.items() if value),
            *(f"--{name}" for name, given in flags.items() if given),
        ]

    def delete(self) -> list[str]:
        """Deletes the request and its nodes."""
        return [*self._resources("delete", self.options.name), "--force", "--quiet"]

    def copy(self, *paths: pathlib.Path) -> list[str]:
        """Copies files to the home folder of every host."""
        command = self._resources("scp", *map(str, paths), f"{self.options.name}:")
        return command + self._on_hosts("all")

    def install(self) -> list[str]:
        """Installs the code and its packages, mounts disk and buckets, runs the set-up commands."""
        o = self.options
        flags = [f"--mount={bucket}" for bucket in o.buckets]
        flags += [f"--cache_mb={o.mount_cache_gb * 1024}"] if o.buckets else []
        flags += [f"--disk={option_parsing.DISK}"] if o.data_disk else []
        script = self._host("install", *flags)
        return self._ssh(f"{script} && {o.setup}" if o.setup else script, workers="all")

    def preflight(self) -> list[str]:
        """Checks the run on the first host: imports, a device, buckets, data and weights."""
        devices = f"--devices={self.options.devices}"
        return self._ssh(self._run("preflight", "--mode=check", devices), workers="0")

    def run(self) -> list[str]:
        """Runs mrd_jax on every host and waits until all have exited."""
        return self._ssh(self._run("run"), workers="all")

    def state(self) -> str:
        """Returns the state of the queued resource; "" if it does not exist."""
        # All of the zone are listed, so that a missing one is not taken for an error.
        for resource in self._list(self._resources("list")):
            if resource["name"].rpartition("/")[2] == self.options.name:
                return resource["state"]["state"]
        return ""

    def find_node_fault(self) -> tuple[str, bool]:
        """Looks for a node that is not ready and healthy.

        Returns:
          What is wrong, "" if nothing is; and whether the node is lost for good.
        """
        listed = self._list(["gcloud", "compute", "tpus", "tpu-vm", "list", *self._place])
        nodes = [
            node
            for node in listed
            if node.get("queuedResource", "").rpartition("/")[2] == self.options.name
        ]
        faults = []
        for node in nodes:
            state, health = node.get("state", ""), node.get("health", "")
            if state != "READY" or health.startswith(("UNHEALTHY", "TIMEOUT")):
                detail = node.get("healthDescription", "")
                name = node["name"].rpartition("/")[2]
                words = " ".join(filter(None, (state, health, detail)))
                faults.append((state in _LOST_NODE, f"node {name} is {words}"))
        if len(nodes) < self.options.node_count:
            faults.append((False, f"{len(nodes)} of {self.options.node_count} nodes exist"))
        lost, text = max(faults, default=(False, ""))
        return text, lost

    def _resources(self, verb: str, *words: str) -> list[str]:
        return ["gcloud", "compute", "tpus", "queued-resources", verb, *words, *self._place]

    def _list(self, command: list[str]) -> list[dict[str, Any]]:
        return json.loads(commands.capture([*command, "--format=json"]) or "[]")

    def _host(self, task: str, *words: str) -> str:
        python = [f"--python={self.options.python}"] if self.options.python else []
        return shlex.join(["bash", HOST.name, task, self.options.commit, *python, *words])

    def _run(self, task: str, *words: str) -> str:
        o = self.options
        arguments = [option_parsing.mounted(a) if o.mount else a for a in o.arguments]
        variables = [f"--setenv={name}={value}" for name, value in o.environment.items()]
        return self._host(task, *variables, "--", *arguments, *words)

    def _ssh(self, script: str, *, workers: str) -> list[str]:
        # With keep-alive messages, a lost host is detected within minutes.
        alive = "--ssh-flag=-oServerAliveInterval=30"
        command = [*self._resources("ssh", self.options.name), *self._on_hosts(workers)]
        return [*command, alive, f"--command={script}"]

    def _on_hosts(self, workers: str) -> list[str]:
        flags = [f"--node={workers}", f"--worker={workers}", "--quiet"]
        # By default gcloud starts a command on 64 hosts and waits for them before it starts it on
        # the others: a run would wait for them in vain.
        flags += ["--batch-size=all"] if workers == "all" else []
        if self.options.iap:
            return [*flags, "--tunnel-through-iap"]
        return [*flags, "--internal-ip"] if self.options.internal_ips else flags
