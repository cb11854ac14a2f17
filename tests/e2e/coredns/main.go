// Command coredns is CoreDNS with the plugins that a cluster's has by default as far as they speak to Kubernetes, driven line by line.
// It is a module of its own, because CoreDNS is no requirement of Kubernetes.
//
//	coredns COREFILE ADDRESS
//
// serves by the file. Each line on standard input is a name, each line on standard output what CoreDNS at ADDRESS answers, as JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"net"
	"os"
	"time"

	"github.com/coredns/caddy"
	_ "github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

type answer struct {
	Addresses []string `json:"addresses"`
	Error     string   `json:"error"`
}

func main() {
	content, err := os.ReadFile(os.Args[1])
	check(err)
	// CoreDNS says where it listens on standard output.
	answers := json.NewEncoder(os.Stdout)
	os.Stdout = os.Stderr
	caddy.Quiet = true
	_, err = caddy.Start(caddy.CaddyfileInput{Contents: content, Filepath: os.Args[1], ServerTypeName: "dns"})
	check(err)
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, os.Args[2])
	}}
	for names := bufio.NewScanner(os.Stdin); names.Scan(); {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		addresses, err := resolver.LookupHost(ctx, names.Text())
		cancel()
		said := answer{Addresses: addresses}
		if err != nil {
			said.Error = err.Error()
		}
		check(answers.Encode(said))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
