//go:build kubernetes_1_35 || kubernetes_1_36

package main

import (
	"context"

	"k8s.io/client-go/kubernetes"
	kubeproxy "k8s.io/kubernetes/pkg/proxy"
	proxyconfigapi "k8s.io/kubernetes/pkg/proxy/apis/config"
)

func newNodeManager(ctx context.Context, client kubernetes.Interface, name string, config *proxyconfigapi.KubeProxyConfiguration) (*kubeproxy.NodeManager, error) {
	return kubeproxy.NewNodeManager(ctx, client, config.ConfigSyncPeriod.Duration, name, false)
}
