// Command flanneld is what of flanneld speaks to Kubernetes: its subnet manager, asked in the order of flanneld's own main, with the
// host-gw backend's lease and without its routes. It is a module of its own, because flannel is no requirement of Kubernetes.
//
//	flanneld KUBECONFIG NETCONF SUBNETFILE NODE PUBLIC_IP
//
// Each line on standard input is answered by a line on standard output: the subnet of this node, once it has its lease, and those of the others
// with the addresses that lead there, as JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"os"
	"sync"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
)

// network is what the routes of a node are made of.
type network struct {
	sync.Mutex
	Subnet string            `json:"subnet"`
	Peers  map[string]string `json:"peers"`
}

func main() {
	known := network{Peers: map[string]string{}}
	go run(&known)
	answers := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		known.Lock()
		err := answers.Encode(&known)
		known.Unlock()
		check(err)
	}
}

func run(known *network) {
	kubeconfig, netConf, subnetFile, node, address := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	check(os.Setenv("NODE_NAME", node))
	ctx := context.Background()
	manager, err := kube.NewSubnetManager(ctx, "", kubeconfig, "flannel.alpha.coreos.com", netConf, true)
	check(err)
	config, err := manager.GetNetworkConfig(ctx)
	check(err)
	if stored, _ := manager.GetStoredPublicIP(ctx); stored != "" {
		address = stored
	}
	public, err := ip.ParseIP4(address)
	check(err)
	own, err := manager.AcquireLease(ctx, &lease.LeaseAttrs{BackendType: "host-gw", PublicIP: public})
	check(err)
	check(manager.HandleSubnetFile(subnetFile, config, true, own.Subnet, own.IPv6Subnet, 1450))
	known.Lock()
	known.Subnet = own.Subnet.String()
	known.Unlock()

	batches := make(chan []lease.Event)
	go subnet.WatchLeases(ctx, manager, own, batches)
	// flanneld goes on when the apiserver cannot be told that the network is up.
	if err := manager.CompleteLease(ctx, own, nil); err != nil {
		log.Print("completing the lease: ", err)
	}
	for batch := range batches {
		known.Lock()
		for _, event := range batch {
			peer := event.Lease.Subnet.String()
			if event.Type == lease.EventRemoved {
				delete(known.Peers, peer)
			} else {
				known.Peers[peer] = event.Lease.Attrs.PublicIP.String()
			}
		}
		known.Unlock()
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
