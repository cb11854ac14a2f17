//go:build !kubernetes_1_35

package main

import (
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
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
