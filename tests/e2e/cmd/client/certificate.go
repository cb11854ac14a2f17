package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"flag"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/certificate"
	"k8s.io/klog/v2"
)

// keepCertificate does what kubelet does with its client certificate: client-go's manager asks for one by a certificate signing
// request, keeps it in kubelet's files and renews it before it expires.
func keepCertificate(arguments []string) func([]string) any {
	flags := flag.NewFlagSet("certificate", flag.ExitOnError)
	bootstrap := flags.String("bootstrap", "", "kubeconfig with a bootstrap token")
	name := flags.String("node", "", "name of the node")
	dir := flags.String("dir", "", "where kubelet-client-current.pem is")
	klog.InitFlags(flags)
	_ = flags.Parse(arguments)

	config, err := clientcmd.BuildConfigFromFlags("", *bootstrap)
	check(err)
	store, err := certificate.NewFileStore("kubelet-client", *dir, *dir, "", "")
	check(err)
	manager, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: func(current *tls.Certificate) (kubernetes.Interface, error) {
			if current == nil {
				return kubernetes.NewForConfig(config)
			}
			own := rest.AnonymousClientConfig(config)
			path := store.(certificate.FileStore).CurrentPath()
			own.CertFile, own.KeyFile = path, path
			return kubernetes.NewForConfig(own)
		},
		Template: &x509.CertificateRequest{Subject: pkix.Name{
			CommonName: "system:node:" + *name, Organization: []string{"system:nodes"},
		}},
		SignerName:       certificates.KubeAPIServerClientKubeletSignerName,
		GetUsages:        certificate.DefaultKubeletClientGetUsages,
		CertificateStore: store,
	})
	check(err)
	manager.Start()
	return func([]string) any {
		fingerprint := ""
		if current := manager.Current(); current != nil {
			sum := sha256.Sum256(current.Certificate[0])
			fingerprint = hex.EncodeToString(sum[:])
		}
		return map[string]string{"fingerprint": fingerprint}
	}
}
