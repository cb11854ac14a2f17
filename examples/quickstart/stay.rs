//! After the story: edgehold stays, a kubeconfig lies ready, and Enter cuts or restores the cloud.

use anyhow::Context;
use tokio::sync::mpsc;

use super::lab::{KUBELET, Lab, config_map, pod};
use super::teller::Teller;

/// Runs until Ctrl-C.
pub(crate) async fn stay(lab: &mut Lab, teller: &mut Teller) -> anyhow::Result<()> {
    let kubeconfig = lab.file("kubeconfig");
    #[allow(clippy::disallowed_methods)] // a file for kubectl, not one of the store's
    std::fs::write(&kubeconfig, kubeconfig_text(lab)?).context("writing the kubeconfig")?;
    let kubectl = format!("kubectl --kubeconfig {}", kubeconfig.display());
    teller.line(&format!(
        "
edgehold stays on {address}. In another terminal, as the kubelet ({KUBELET}):

  {kubectl} -n shop get configmaps
  {kubectl} -n shop get pods -w
  {kubectl} get node edge-1 -o yaml
  {kubectl} annotate node edge-1 a=b --overwrite

and as the service account of a pod:

  {kubectl} --context pod -n shop get configmaps

Each time the cloud is cut, a pod and a ConfigMap change there meanwhile. What kubectl has not read before, and what
needs a write, is refused until the cloud is back.

Enter cuts the cloud, Enter again brings it back. Ctrl-C ends all and removes {dir}.",
        address = lab.address()?,
        dir = lab.dir().display(),
    ))?;
    let mut enter = presses_of_enter();
    let (mut is_cut, mut outages) = (false, 0);
    loop {
        let pressed = tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            pressed = enter.recv() => pressed,
        };
        if pressed.is_none() {
            // Standard input has ended: there is only Ctrl-C left.
            tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")?;
            break;
        }
        if is_cut {
            lab.restore().await?;
            teller.line("The cloud is back. Enter cuts it.")?;
        } else {
            outages += 1;
            lab.cut().await?;
            lab.cloud.put(pod(&format!("made-in-outage-{outages}"), "edge-1"));
            lab.cloud
                .put(config_map("web", &format!("the menu of outage {outages}")));
            teller.line("The cloud is cut. Enter brings it back.")?;
        }
        is_cut = !is_cut;
    }
    teller.line("\nStopping.")?;
    lab.stop().await
}

/// One message for each line on standard input; ends with it.
fn presses_of_enter() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    // A thread of its own: reading a terminal cannot be cancelled, and must not keep the runtime from ending.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn kubeconfig_text(lab: &Lab) -> anyhow::Result<String> {
    let (address, dir, token) = (lab.address()?, lab.dir().display(), &lab.token);
    Ok(format!(
        r#"apiVersion: v1
kind: Config
clusters:
  - {{name: edgehold, cluster: {{server: "https://{address}", certificate-authority: {dir}/ca.crt}}}}
users:
  - {{name: kubelet, user: {{client-certificate: {dir}/kubelet.crt, client-key: {dir}/kubelet.key}}}}
  - {{name: pod, user: {{token: "{token}"}}}}
contexts:
  - {{name: kubelet, context: {{cluster: edgehold, user: kubelet}}}}
  - {{name: pod, context: {{cluster: edgehold, user: pod}}}}
current-context: kubelet
"#
    ))
}
