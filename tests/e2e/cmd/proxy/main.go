// Command proxy is kube-proxy without a packet filter: its own informers and node manager, wired as kube-proxy wires them, in
// front of a proxier that only notes what it is told. (kubemark's hollow proxy is the same with one that notes nothing.)
//
//	proxy -kubeconfig FILE -name NODE
//
// Each line on standard input is answered with a line of JSON: what kube-proxy would have programmed, and everything that it
// was ever told to take away.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sort"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	proxyapp "k8s.io/kubernetes/cmd/kube-proxy/app"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	proxyconfigapi "k8s.io/kubernetes/pkg/proxy/apis/config"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig file")
	name := flag.String("name", "", "name of the node")
	klog.InitFlags(nil)
	flag.Parse()

	// The released one has these from its configuration's defaults.
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	check(err)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.QPS, config.Burst = 5, 10
	client, err := kubernetes.NewForConfig(config)
	check(err)

	known := &recorder{services: map[string]string{}, slices: map[string][]string{}, removed: []string{}}
	go run(client, *name, known)
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		fmt.Println(string(known.state()))
	}
}

func run(client kubernetes.Interface, name string, known *recorder) {
	ctx := context.Background()
	config := &proxyconfigapi.KubeProxyConfiguration{
		Mode:             proxyconfigapi.ProxyMode("fake"),
		ConfigSyncPeriod: metav1.Duration{Duration: 15 * time.Minute},
	}
	// As in kube-proxy, nothing starts before the node is known.
	node, err := newNodeManager(ctx, client, name, config)
	check(err)
	known.node()
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	server := &proxyapp.ProxyServer{
		Config:      config,
		Client:      client,
		Proxier:     known,
		Broadcaster: broadcaster,
		Recorder:    broadcaster.NewRecorder(legacyscheme.Scheme, "kube-proxy"),
		NodeRef:     &v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name},
		NodeManager: node,
	}
	check(server.Run(ctx))
}

// recorder is the proxier.
type recorder struct {
	sync.Mutex
	hasNode, servicesSynced, slicesSynced bool

	services map[string]string   // namespace/name to cluster IP
	slices   map[string][]string // namespace/name to addresses
	removed  []string
}

func (r *recorder) state() []byte {
	r.Lock()
	defer r.Unlock()
	line, err := json.Marshal(map[string]any{
		"node": r.hasNode, "synced": r.servicesSynced && r.slicesSynced,
		"services": r.services, "slices": r.slices, "removed": r.removed,
	})
	check(err)
	return line
}

func (r *recorder) node() {
	r.Lock()
	defer r.Unlock()
	r.hasNode = true
}

func (r *recorder) Sync()     {}
func (r *recorder) SyncLoop() { select {} }

func (r *recorder) OnServiceAdd(service *v1.Service) {
	r.Lock()
	defer r.Unlock()
	r.services[service.Namespace+"/"+service.Name] = service.Spec.ClusterIP
}

func (r *recorder) OnServiceUpdate(_, service *v1.Service) { r.OnServiceAdd(service) }

func (r *recorder) OnServiceDelete(service *v1.Service) {
	r.Lock()
	defer r.Unlock()
	delete(r.services, service.Namespace+"/"+service.Name)
	r.removed = append(r.removed, "service "+service.Namespace+"/"+service.Name)
}

func (r *recorder) OnServiceSynced() {
	r.Lock()
	defer r.Unlock()
	r.servicesSynced = true
}

func (r *recorder) OnEndpointSliceAdd(slice *discoveryv1.EndpointSlice) {
	addresses := []string{}
	for _, endpoint := range slice.Endpoints {
		addresses = append(addresses, endpoint.Addresses...)
	}
	sort.Strings(addresses)
	r.Lock()
	defer r.Unlock()
	r.slices[slice.Namespace+"/"+slice.Name] = addresses
}

func (r *recorder) OnEndpointSliceUpdate(_, slice *discoveryv1.EndpointSlice) {
	r.OnEndpointSliceAdd(slice)
}

func (r *recorder) OnEndpointSliceDelete(slice *discoveryv1.EndpointSlice) {
	r.Lock()
	defer r.Unlock()
	delete(r.slices, slice.Namespace+"/"+slice.Name)
	r.removed = append(r.removed, "slice "+slice.Namespace+"/"+slice.Name)
}

func (r *recorder) OnEndpointSlicesSynced() {
	r.Lock()
	defer r.Unlock()
	r.slicesSynced = true
}

func (r *recorder) OnServiceCIDRsChanged([]string)     {}
func (r *recorder) OnTopologyChange(map[string]string) {}

func check(err error) {
	if err != nil {
		log.Fatalf("proxy: %v", err)
	}
}
