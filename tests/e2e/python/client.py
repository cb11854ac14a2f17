"""The Python client as a pod uses it: KUBERNETES_SERVICE_HOST and _PORT, and the files `ca` and `token` named here.

    client.py CA TOKEN NAMESPACE

keeps a watch of the namespace's ConfigMaps. Each line on standard input is a command, each line on standard output its
answer, as JSON: "list", "get NAME", "secrets", "create NAME" answer names or the code of the error; "seen" answers what
the watch has told.
"""

import json
import sys
import threading
import time

from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.config.incluster_config import InClusterConfigLoader


class Watcher(threading.Thread):
    """Follows the collection for ever; the client resumes by itself where it stood."""

    def __init__(self, api, namespace):
        super().__init__(daemon=True)
        self.api, self.namespace = api, namespace
        self.added, self.deleted, self.errors = [], [], []

    def run(self):
        while True:
            try:
                events = watch.Watch().stream(self.api.list_namespaced_config_map, self.namespace)
                for event in events:
                    name = event["object"].metadata.name
                    (self.deleted if event["type"] == "DELETED" else self.added).append(name)
            except Exception as error:  # what a program in the field would do, too
                self.errors.append(repr(error)[:300])
            time.sleep(0.5)

    def seen(self):
        return {"held": sorted(set(self.added)), "deleted": self.deleted, "errors": self.errors}


def perform(api, namespace, words):
    if words == ["list"]:
        return [item.metadata.name for item in api.list_namespaced_config_map(namespace).items]
    if words == ["secrets"]:
        return [item.metadata.name for item in api.list_namespaced_secret(namespace).items]
    if words[0] == "get":
        return [api.read_namespaced_config_map(words[1], namespace).metadata.name]
    if words[0] == "create":
        made = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=words[1]))
        return [api.create_namespaced_config_map(namespace, made).metadata.name]
    raise ValueError(words)


def main():
    ca, token, namespace = sys.argv[1:]
    InClusterConfigLoader(token_filename=token, cert_filename=ca).load_and_set()
    api = client.CoreV1Api()
    watcher = Watcher(client.CoreV1Api(), namespace)
    watcher.start()
    for line in sys.stdin:
        words = line.split()
        if words == ["seen"]:
            answer = watcher.seen()
        else:
            try:
                answer = {"names": perform(api, namespace, words), "code": 200}
            except ApiException as error:
                answer = {"names": [], "code": error.status, "reason": error.reason}
        print(json.dumps(answer), flush=True)


main()
