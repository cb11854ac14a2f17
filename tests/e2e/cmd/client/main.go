// Command client is the client-go side of the tier's scenarios. It is driven line by line: each line on standard input
// is a command, each line on standard output its answer, as JSON.
//
//	client informers -kubeconfig FILE -namespace NS [-v LEVEL]
//	    keeps informers of the namespace's ConfigMaps: typed (protobuf), typed of those labelled colour=red, dynamic and
//	    metadata. "state" answers what each of them holds, "history" every notification it has given, when it listed,
//	    and which encodings it got.
//	client incluster -ca FILE -token FILE
//	    builds its configuration as rest.InClusterConfig does, from KUBERNETES_SERVICE_HOST and _PORT, but with the
//	    files named here, because their usual paths belong to a container.
//	    "list RESOURCE NS", "get RESOURCE NS NAME" and "create NS NAME" (a ConfigMap) answer names or the error.
//	client kubelet -address HOST:PORT -cert FILE -key FILE
//	    serves logs, exec, attach and port-forward to the apiserver, as a kubelet does.
//	client certificate -bootstrap KUBECONFIG -node NAME -dir DIR
//	    gets kubelet's client certificate by a signing request and renews it. Any line answers its fingerprint.
//
// KUBE_FEATURE_WatchListClient=false in the environment turns watch-list off, as in every client-go program;
// KUBE_FEATURE_ClientsAllowCBOR and KUBE_FEATURE_ClientsPreferCBOR turn CBOR on.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("client: which command?")
	}
	var answer func(words []string) any
	switch arguments := os.Args[2:]; os.Args[1] {
	case "informers":
		answer = informers(arguments)
	case "incluster":
		answer = inCluster(arguments)
	case "kubelet":
		answer = kubelet(arguments)
	case "certificate":
		answer = keepCertificate(arguments)
	default:
		log.Fatalf("client: %q is not a command", os.Args[1])
	}
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		line, err := json.Marshal(answer(split(commands.Text())))
		check(err)
		fmt.Println(string(line))
	}
}

func check(err error) {
	if err != nil {
		log.Fatalf("client: %v", err)
	}
}
