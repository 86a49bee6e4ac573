//! Mails about sign-ins from new places: an address and a program that a record has not signed in from before.

use std::sync::Arc;

use hyper::header::USER_AGENT;
use hyper::http::request::Parts;
use sha2::{Digest, Sha256};

use super::mails::BackgroundMail;
use crate::http::Services;
use crate::http::edge::client::ClientAddress;
use crate::http::wire::error::ApiError;
use crate::records::schema::DateText;
use crate::records::typed::AuthRecord;
use crate::time::Millis;

/// Characters of a program's name that count.
const MAX_AGENT: usize = 200;

/// Records where a record signs in from, after the answer, and sends a mail if the place is new. The first place is no news.
pub(super) fn alert_later(services: &Services, head: &Parts, record: &AuthRecord) -> Result<(), ApiError> {
    let is_on = record.collection().auth().is_some_and(|auth| auth.auth_alert.enabled);
    let (Some(client), true) = (head.extensions.get::<ClientAddress>(), is_on) else { return Ok(()) };
    let agent = head.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let agent: String = agent.chars().take(MAX_AGENT).collect();
    let hash = Sha256::digest(format!("{}{agent}", client.ip).as_bytes());
    let fingerprint: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let info = format!("{} - {} {agent}", DateText::at(Millis::now()).as_str(), client.ip);
    let (typed, mailer, record) =
        (services.typed()?.clone(), services.mailer()?.clone(), Arc::new(record.clone()));
    let mail =
        BackgroundMail { record: Arc::clone(&record), template: |auth| &auth.auth_alert.email_template };
    let origins = typed.clone();
    let words = async move {
        let is_news = origins.add_origin(&record, &fingerprint).await?;
        Ok((is_news && !record.email().is_empty()).then(|| vec![("ALERT_INFO", info)]))
    };
    mail.send(typed, mailer, words, |_| std::future::ready(Ok(())));
    Ok(())
}
