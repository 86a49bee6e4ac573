//! Templates of the mails to accounts, and their defaults, which are PocketBase's.

use serde::{Deserialize, Serialize};

/// A mail.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MailTemplate {
    /// Its subject, with words such as `{APP_NAME}`.
    pub subject: String,
    /// Its body, in HTML.
    pub body: String,
}

impl MailTemplate {
    /// The alert of a sign-in from a new place.
    pub(super) fn login_alert() -> Self {
        Self::new(
            "Login from a new location",
            &[
                "We noticed a login to your {APP_NAME} account from a new location:",
                "<p><em>{ALERT_INFO}</em></p>",
                "<strong>If this wasn't you, you should immediately change your {APP_NAME} account password to revoke access from all other locations.</strong>",
                "If this was you, you may disregard this email.",
            ],
        )
    }

    /// The mail with a one-time password.
    pub(super) fn one_time_password() -> Self {
        Self::new(
            "OTP for {APP_NAME}",
            &[
                "Your one-time password is: <strong>{OTP}</strong>",
                &format!("<i>{}</i>", not_asked("ask for the one-time password")),
            ],
        )
    }

    /// The mail for the verification of an address.
    pub(super) fn verification() -> Self {
        Self::with_button(
            "Verify your {APP_NAME} email",
            "Click on the button below to verify your email address.",
            "confirm-verification",
            "Verify",
            &not_asked("recently register").replace("you can", "please"),
        )
    }

    /// The mail for the reset of a password.
    pub(super) fn password_reset() -> Self {
        Self::with_button(
            "Reset your {APP_NAME} password",
            "Click on the button below to reset your password.",
            "confirm-password-reset",
            "Reset password",
            &not_asked("ask to reset your password").replace("you can", "please"),
        )
    }

    /// The mail for the change of an address.
    pub(super) fn email_change() -> Self {
        Self::with_button(
            "Confirm your {APP_NAME} new email address",
            "Click on the button below to confirm your new email address.",
            "confirm-email-change",
            "Confirm new email",
            &not_asked("ask to change your email address").replace("you can", "please"),
        )
    }

    fn new(subject: &str, paragraphs: &[&str]) -> Self {
        let paragraph = |text: &&str| match text.strip_prefix("<p>") {
            Some(_) => format!("{text}\n"),
            None => format!("<p>{text}</p>\n"),
        };
        let paragraphs: String = paragraphs.iter().map(paragraph).collect();
        let body = format!("<p>Hello,</p>\n{paragraphs}<p>\n  Thanks,<br/>\n  {{APP_NAME}} team\n</p>");
        Self { subject: subject.to_owned(), body }
    }

    /// A mail of one sentence, a button that leads to a page of the admin UI, and another sentence.
    fn with_button(subject: &str, before: &str, page: &str, label: &str, after: &str) -> Self {
        let button = format!(
            "<p>\n  <a class=\"btn\" href=\"{{APP_URL}}/_/#/auth/{page}/{{TOKEN}}\" target=\"_blank\" rel=\"noopener\">{label}</a>\n</p>"
        );
        let after = format!("<i>{after}</i>");
        let first = if page == "confirm-verification" {
            vec!["Thank you for joining us at {APP_NAME}."]
        } else {
            Vec::new()
        };
        let paragraphs: Vec<&str> =
            first.into_iter().chain([before, button.as_str(), after.as_str()]).collect();
        Self::new(subject, &paragraphs)
    }
}

fn not_asked(what: &str) -> String {
    format!("If you didn't {what}, you can ignore this email.")
}
