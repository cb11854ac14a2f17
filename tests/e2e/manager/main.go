// Command manager is a leader-elected manager on controller-runtime with one controller, as a CNI agent's or an operator's.
// It is a module of its own, because controller-runtime is no requirement of Kubernetes.
//
//	manager -kubeconfig FILE -namespace NS
//
// Standard output has a line for what happens to it: "leading", "reconciled NAME" and, when its lease is lost, "ended at
// MILLISECONDS" of Unix time and "lost: ..." before it ends with status 1, as such programs do.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

func main() {
	// -kubeconfig is a flag of controller-runtime's own.
	namespace := flag.String("namespace", "", "namespace of the lease and of what is reconciled")
	klog.InitFlags(nil)
	flag.Parse()
	ctrl.SetLogger(klog.Background())

	config, err := ctrl.GetConfig()
	check(err)
	// Client-go's own usual numbers, made shorter: 15 s, 10 s, 2 s.
	lease, renew, retry := 12*time.Second, 6*time.Second, time.Second
	made, err := ctrl.NewManager(config, manager.Options{
		Cache:                         cache.Options{DefaultNamespaces: map[string]cache.Config{*namespace: {}}},
		Metrics:                       server.Options{BindAddress: "0"},
		LeaderElection:                true,
		LeaderElectionID:              "e2e",
		LeaderElectionNamespace:       *namespace,
		LeaderElectionResourceLock:    "leases",
		LeaseDuration:                 &lease,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
		LeaderElectionReleaseOnCancel: false,
	})
	check(err)
	check(ctrl.NewControllerManagedBy(made).For(&corev1.ConfigMap{}).Complete(&reconciler{made.GetClient()}))
	go func() {
		<-made.Elected()
		fmt.Println("leading")
	}()
	check(made.Start(ctrl.SetupSignalHandler()))
}

type reconciler struct {
	client client.Client
}

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var found corev1.ConfigMap
	if err := r.client.Get(ctx, request.NamespacedName, &found); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	fmt.Println("reconciled", found.Name)
	return ctrl.Result{}, nil
}

func check(err error) {
	if err != nil {
		fmt.Printf("ended at %d\nlost: %v\n", time.Now().UnixMilli(), err)
		os.Exit(1)
	}
}
