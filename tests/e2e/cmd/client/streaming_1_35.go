//go:build kubernetes_1_35

package main

import (
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubelet/pkg/cri/streaming"
)

type (
	streams      = streaming.Server
	terminalSize = remotecommand.TerminalSize
)

func newStreams(address string, runtime streaming.Runtime) (streams, error) {
	config := streaming.DefaultConfig
	config.Addr = address
	return streaming.NewServer(config, runtime)
}
