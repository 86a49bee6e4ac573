//! Mails of typed collections: templates with their words, and the mail server of the settings.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::error::Refusal;
use crate::outbound::mail::{Attempts, Mail, MailError, MailServer, Mailer, PendingMail, SmtpAuth};
use crate::records::schema::{AuthOptions, Definition, Kind, MailTemplate};
use crate::records::typed::settings::AppSettings;
use crate::records::typed::{AuthRecord, TypedError, TypedRecords};

/// The page around the text of a template.
const LAYOUT: (&str, &str) = (
    "<!DOCTYPE html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<style>\n\
     body { margin: 0; padding: 20px 30px; color: #16161a; background: #fff; font: 14px/20px sans-serif }\n\
     p { margin: 10px 0 }\n\
     a { color: inherit }\n\
     .btn { display: inline-block; min-width: 110px; padding: 0 20px; border-radius: 6px; color: #fff !important; background: #16161a; font-weight: bold; line-height: 40px; text-align: center; text-decoration: none }\n\
     .hidden { display: none }\n</style>\n</head>\n<body>\n",
    "\n</body>\n</html>\n",
);

/// The mail server of the settings. `None`: mails go to files.
pub(super) fn server(settings: &AppSettings) -> Option<MailServer> {
    let smtp = &settings.smtp;
    smtp.enabled.then(|| MailServer {
        host: smtp.host.clone(),
        // A port beyond these cannot be reached, and 0 neither.
        port: u16::try_from(smtp.port).unwrap_or_default(),
        tls: smtp.tls,
        username: smtp.username.clone(),
        password: smtp.password.reveal().to_owned(),
        auth: if smtp.auth_method == "LOGIN" { SmtpAuth::Login } else { SmtpAuth::Plain },
        local_name: smtp.local_name.clone(),
    })
}

/// A mail about a record.
pub(super) struct RecordMail<'a> {
    pub(super) settings: &'a AppSettings,
    pub(super) template: &'a MailTemplate,
    pub(super) definition: &'a Definition,
    pub(super) members: &'a Map<String, Value>,
    pub(super) recipient: &'a str,
    /// Words of this kind of mail, such as `TOKEN`.
    pub(super) words: &'a [(&'a str, &'a str)],
}

impl RecordMail<'_> {
    fn mail(&self) -> Mail {
        let meta = &self.settings.meta;
        Mail {
            sender_name: meta.sender_name.clone(),
            sender: meta.sender_address.clone(),
            recipient: self.recipient.to_owned(),
            subject: self.filled(&self.template.subject, |value| value),
            html: format!(
                "{}{}{}",
                LAYOUT.0,
                self.filled(&self.template.body, |value| escaped(&value)),
                LAYOUT.1
            ),
        }
    }

    /// A template with its words, once: a value that looks like a word stays as it is. Unknown words stay too.
    fn filled(&self, template: &str, written: impl Fn(String) -> String) -> String {
        let (mut filled, mut rest) = (String::new(), template);
        while let Some((before, behind)) = rest.split_once('{') {
            filled.push_str(before);
            let word = behind.split_once('}').and_then(|(word, behind)| Some((self.word(word)?, behind)));
            match word {
                Some((value, behind)) => {
                    filled.push_str(&written(value));
                    rest = behind;
                }
                None => {
                    filled.push('{');
                    rest = behind;
                }
            }
        }
        filled.push_str(rest);
        filled
    }

    fn word(&self, word: &str) -> Option<String> {
        let meta = &self.settings.meta;
        match word {
            "APP_NAME" => return Some(meta.app_name.clone()),
            // Templates write the slash behind it.
            "APP_URL" => return Some(meta.app_url.trim_end_matches('/').to_owned()),
            _ => {}
        }
        if let Some((_, value)) = self.words.iter().find(|(name, _)| *name == word) {
            return Some((*value).to_owned());
        }
        let field = self.definition.field(word.strip_prefix("RECORD:")?)?;
        if field.hidden || matches!(field.kind, Kind::Password { .. }) {
            return None;
        }
        Some(match self.members.get(&field.name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        })
    }

    /// Queues the mail.
    pub(super) fn begin(&self, mailer: &Mailer, attempts: Attempts) -> Result<PendingMail, MailError> {
        mailer.begin(server(self.settings), self.mail(), attempts)
    }
}

/// A mail to a record's address that is made and sent after the answer to its request.
pub(super) struct BackgroundMail {
    pub(super) record: Arc<AuthRecord>,
    pub(super) template: fn(&AuthOptions) -> &MailTemplate,
}

/// The words of a mail with their values. `None`: no mail is sent.
type Words = Option<Vec<(&'static str, String)>>;

impl BackgroundMail {
    /// Begins a task that sends the mail with the words that `words` resolves to. `settle` runs with the outcome: whether the mail was sent.
    ///
    /// The task ends with the mail, whose time is limited, as is the queue.
    pub(super) fn send<S>(
        self,
        typed: TypedRecords,
        mailer: Mailer,
        words: impl Future<Output = Result<Words, TypedError>> + Send + 'static,
        settle: impl FnOnce(bool) -> S + Send + 'static,
    ) where
        S: Future<Output = Result<(), TypedError>> + Send,
    {
        tokio::spawn(async move {
            let sent = match words.await {
                Ok(None) => return,
                Ok(Some(words)) => self.sent(&typed, &mailer, &words).await,
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = &sent {
                tracing::debug!(error, "a mail was not sent");
            }
            if let Err(error) = settle(sent.is_ok()).await {
                tracing::debug!(error = error.to_string(), "the outcome of a mail was not recorded");
            }
        });
    }

    /// Makes the mail, and waits until the server has it.
    async fn sent(
        &self,
        typed: &TypedRecords,
        mailer: &Mailer,
        words: &[(&'static str, String)],
    ) -> Result<(), String> {
        let settings = typed.settings().await.map_err(|error| error.to_string())?;
        let collection = self.record.collection();
        let auth = collection.auth().ok_or("the collection has no accounts any more")?;
        let words: Vec<(&str, &str)> = words.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mail = RecordMail {
            settings: &settings,
            template: (self.template)(auth),
            definition: collection.definition(),
            members: self.record.members(),
            recipient: self.record.email(),
            words: &words,
        };
        let pending = mail.begin(mailer, Attempts::Three).map_err(|error| error.to_string())?;
        pending.sent().await.map_err(|error| error.to_string())
    }
}

fn escaped(text: &str) -> String {
    let entities = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&#34;"), ("'", "&#39;")];
    entities.into_iter().fold(text.to_owned(), |text, (character, entity)| text.replace(character, entity))
}

/// The refusal of a request whose mail was not sent.
pub(super) fn not_sent(message: &str, error: &MailError) -> Refusal {
    Refusal::new(hyper::StatusCode::BAD_REQUEST, format!("{message} Raw error: \n{error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_filled_in_once_and_escaped_in_the_document() {
        let body = json!({"name": "people", "type": "auth", "fields": [{"name": "name", "type": "text"}, {"name": "n", "type": "number"}, {"name": "secret", "type": "text", "hidden": true}]});
        let (_, definition) = Definition::create(&body).unwrap();
        let mut settings = AppSettings::default();
        settings.meta.app_name = "Tide & Gate".into();
        settings.meta.app_url = "https://x.example/".into();
        let template = MailTemplate {
            subject: "{APP_NAME}: {RECORD:name}".into(),
            body: "<a href=\"{APP_URL}/t/{TOKEN}\">{RECORD:name} {RECORD:n} {RECORD:secret} {RECORD:tokenKey} {RECORD:password} {UNKNOWN} {</a>".into(),
        };
        let members = json!({"name": "<b>{TOKEN}", "n": 5, "secret": "hunter2", "tokenKey": "hunter2", "password": "hunter2"});
        let mail = RecordMail {
            settings: &settings,
            template: &template,
            definition: &definition,
            members: members.as_object().unwrap(),
            recipient: "ada@example.com",
            words: &[("TOKEN", "t.t.t")],
        };
        let mail = mail.mail();
        assert_eq!(mail.subject, "Tide & Gate: <b>{TOKEN}");
        let expected = "<a href=\"https://x.example/t/t.t.t\">&lt;b&gt;{TOKEN} 5 {RECORD:secret} {RECORD:tokenKey} {RECORD:password} {UNKNOWN} {</a>";
        assert!(mail.html.contains(expected), "{}", mail.html);
        assert!(server(&settings).is_none());
    }
}
