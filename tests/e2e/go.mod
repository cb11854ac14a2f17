// The versions of everything are in versions/MINOR.mod, one file for each minor version of Kubernetes: go build -modfile.
module edgehold.test/e2e

go 1.26.0
