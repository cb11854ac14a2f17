//! Questions to the cache while the cloud is away, and the oracle's verdict on its answers.

use bytes::Bytes;
use http::header;
use http_body_util::BodyExt;

use super::cloud::{Key, Selection, path};
use super::{OWNERS, World, query};
use crate::cache::Answer;
use crate::kube::media::Encoding;
use crate::wire::object::read_object;

impl World {
    /// What the cache says, while the cloud is away.
    pub(super) async fn ask(&mut self) {
        // A list is received beside everything else: what was shown a moment ago may still be on its way.
        self.cache.settle().await;
        let (client, accept) = (self.chance.below(2), self.accept());
        let not_before = (self.one_in(5)).then(|| self.cloud.head - self.chance.below(8) as u64);
        let version = not_before.map_or(String::new(), |version| format!("resourceVersion={version}"));
        let verdict = if self.one_in(3) {
            let selection = self.selection();
            let target = format!("{}{version}", selection.target());
            let answer = self.answer(client, &target, &accept).await;
            self.note(format_args!(
                "{client} asks for {target} {accept:?}: {}",
                show(&answer)
            ));
            self.judge_list(client, &selection, (&accept, not_before), answer)
        } else {
            let key = self.key();
            let target = format!("{}?{version}", path(key));
            let answer = self.answer(client, &target, &accept).await;
            self.note(format_args!(
                "{client} asks for {target} {accept:?}: {}",
                show(&answer)
            ));
            self.judge_object(client, key, (&accept, not_before), answer)
        };
        if let Err(why) = verdict {
            panic!("{why}\n{}", self.trace);
        }
    }

    /// Status, encoding and body; `None`: unknown.
    async fn answer(&self, client: usize, target: &str, accept: &[Encoding]) -> Reached {
        match self.cache.answer(&query(OWNERS[client], target, accept)).await {
            Answer::Unknown(_) => Reached::Unknown,
            Answer::Refused(status) => Reached::Refused(status.code.as_u16()),
            Answer::Found(found) => {
                let encoding = found
                    .headers
                    .get(header::CONTENT_TYPE)
                    .and_then(|value| value.to_str().ok());
                let encoding = Encoding::of_content_type(encoding.unwrap()).unwrap();
                match found.body.collect().await {
                    Ok(body) => Reached::Found(encoding, body.to_bytes()),
                    // Broken off: the client knows that it is no answer.
                    Err(_) => Reached::Unknown,
                }
            }
        }
    }

    fn judge_list(
        &mut self,
        client: usize,
        selection: &Selection,
        (accept, not_before): (&[Encoding], Option<u64>),
        answer: Reached,
    ) -> Result<(), String> {
        match answer {
            Reached::Unknown => self.told.unknown += 1,
            Reached::Refused(code) => return Err(format!("a list was refused with {code}")),
            Reached::Found(encoding, body) => {
                self.told.lists += 1;
                let list = (selection, encoding, &*body);
                return self.oracles[client].judge_list(&self.cloud, list, (accept, not_before));
            }
        }
        Ok(())
    }

    fn judge_object(
        &mut self,
        client: usize,
        key: Key,
        (accept, not_before): (&[Encoding], Option<u64>),
        answer: Reached,
    ) -> Result<(), String> {
        let oracle = &self.oracles[client];
        match answer {
            Reached::Unknown => {
                self.told.unknown += 1;
                Ok(())
            }
            Reached::Refused(404) => {
                self.told.absences += 1;
                oracle.judge_absence(&self.cloud, key, not_before)
            }
            Reached::Refused(code) => Err(format!("a GET was refused with {code}")),
            Reached::Found(encoding, _) if !accept.contains(&encoding) => {
                Err(format!("{encoding:?} was not asked for"))
            }
            Reached::Found(encoding, body) => {
                self.told.objects += 1;
                oracle.judge_object(&self.cloud, (key, encoding, &body), not_before)
            }
        }
    }
}

enum Reached {
    Found(Encoding, Bytes),
    Refused(u16),
    Unknown,
}

fn show(answer: &Reached) -> String {
    match answer {
        Reached::Unknown => "unknown".to_owned(),
        Reached::Refused(code) => code.to_string(),
        Reached::Found(Encoding::Json, body) => String::from_utf8_lossy(body).into_owned(),
        Reached::Found(encoding, body) => match read_object(*encoding, body) {
            Ok(object) => format!("{encoding:?} at {}", object.meta.resource_version),
            Err(_) => format!("{encoding:?}, {} bytes", body.len()),
        },
    }
}
