//! The systemd unit of a node's edgehold.
//!
//! It runs as root without any capability: kubelet's key is root's alone (mode 0600), and root reads it as its owner. The other
//! way, a user of its own with `CAP_DAC_READ_SEARCH`, may read every file of the machine, and owns what it writes.
//! Without `CAP_DAC_OVERRIDE`, below `ProtectSystem=strict`, this root writes its state directory and nothing else.

use std::path::Path;

use super::paths::MARK;

/// What a configuration asks of the system beyond reading and listening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// `CAP_NET_ADMIN`: for the dummy interface.
    NetAdmin,
    /// `CAP_NET_BIND_SERVICE`: for a port below 1024.
    NetBindService,
}

impl Capability {
    /// As systemd spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
        }
    }
}

/// The text of `edgehold.service` for this binary and these capabilities.
pub fn text(binary: &Path, capabilities: &[Capability]) -> String {
    let capabilities: Vec<&str> = capabilities.iter().map(|one| one.as_str()).collect();
    TEMPLATE
        .replace("{MARK}", MARK)
        .replace("{BINARY}", &binary.display().to_string())
        .replace("{CAPABILITIES}", &capabilities.join(" "))
}

const TEMPLATE: &str = "\
{MARK}. Change it in edgehold.service.d/: install rewrites this file.
[Unit]
Description=edgehold, the node's way to the kube-apiserver
# kubelet needs it; it needs nothing: it starts offline, from what is on disk.
Before=kubelet.service
StartLimitIntervalSec=0

[Service]
# systemd before 253 does not know the second, says so, and goes by the first.
Type=notify
Type=notify-reload
ExecStart={BINARY} run --config /etc/edgehold/config.yaml
Restart=always
RestartSec=1
# Fed every 20 s by the threads that serve requests: if they hang for a minute, it is restarted.
WatchdogSec=60
# A wrong configuration does not become right by trying again.
RestartPreventExitStatus=64
# The drain is given ten seconds, what is written down as many.
TimeoutStopSec=30
LimitNOFILE=65536
# What callers without a configured certificate can make it take at most, and a quarter (docs/install.md, Memory).
MemoryHigh=768M
MemoryMax=1024M
# By default glibc keeps what is freed in eight arenas a processor.
Environment=MALLOC_ARENA_MAX=2
# kubelet's own is -999: without edgehold nothing on the node can speak to its apiserver.
OOMScoreAdjust=-900
UMask=0077

# Root without capabilities: it reads kubelet's key as its owner, and can do nothing else that root can.
CapabilityBoundingSet={CAPABILITIES}
NoNewPrivileges=yes

# It writes below /var/lib/edgehold, has its admin socket in /run/edgehold, and touches nothing else.
StateDirectory=edgehold
StateDirectoryMode=0700
RuntimeDirectory=edgehold
RuntimeDirectoryMode=0700
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProcSubset=pid
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes

LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources

[Install]
WantedBy=multi-user.target
";
