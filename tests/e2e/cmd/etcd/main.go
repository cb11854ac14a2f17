// Command etcd is a single etcd member, embedded, with the few flags that the tier needs.
//
// It speaks plain HTTP and must be given loopback addresses.
package main

import (
	"flag"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	dataDir := flag.String("data-dir", "", "where the member keeps its data")
	client := flag.String("listen-client-urls", "http://127.0.0.1:2379", "where clients connect")
	advertise := flag.String("advertise-client-urls", "", "what clients are told (default: the listen URL)")
	peer := flag.String("listen-peer-urls", "http://127.0.0.1:0", "where peers would connect")
	unsafeNoFsync := flag.Bool("unsafe-no-fsync", false, "skip fsync: a test's data need not outlive the machine")
	logLevel := flag.String("log-level", "warn", "debug, info, warn or error")
	flag.Parse()
	if *advertise == "" {
		*advertise = *client
	}

	cfg := embed.NewConfig()
	cfg.Name = "e2e"
	cfg.Dir = *dataDir
	cfg.LogLevel = *logLevel
	cfg.UnsafeNoFsync = *unsafeNoFsync
	cfg.ListenClientUrls = []url.URL{parse(*client)}
	cfg.AdvertiseClientUrls = []url.URL{parse(*advertise)}
	cfg.ListenPeerUrls = []url.URL{parse(*peer)}
	cfg.AdvertisePeerUrls = []url.URL{parse(*peer)}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)

	member, err := embed.StartEtcd(cfg)
	if err != nil {
		log.Fatalf("etcd: %v", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-stop:
	case err = <-member.Err():
		log.Printf("etcd: %v", err)
	}
	member.Close()
}

func parse(text string) url.URL {
	parsed, err := url.Parse(text)
	if err != nil {
		log.Fatalf("etcd: %v", err)
	}
	return *parsed
}
