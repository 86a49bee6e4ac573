//! Topics, as clients name them.

use uuid::Uuid;

use super::options::{CompiledFilter, MAX_FILTERS_BYTES, Objects, Options};
use crate::auth::{Principal, Scope};
use crate::config::Module;
use crate::conversations;
use crate::http::edge::authorize::Requirement;
use crate::http::wire::error::ApiError;
use crate::realtime::{Change, Filters, Position, TableName, published_topic};
use crate::records::{Name, RecordId};

/// The longest topic of `tidegate_publish`, in bytes (`sql/migrations/V13`).
const MAX_PUBLISHED_BYTES: usize = 200;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topic {
    /// `records/{collection}`.
    Collection(Name),
    /// `records/{collection}/{id}`.
    Record(Name, RecordId),
    /// `conversations/{id}`.
    Conversation(Uuid),
    /// `table/{schema.table}`: a watched table.
    Table(TableName),
    /// `topic/{name}`: what `tidegate_publish` publishes.
    Published(String),
    /// `stats`: the service's figures, once a second. No topic of the feed.
    Stats,
}

impl Topic {
    fn parse(text: &str) -> Option<Self> {
        if text == "stats" {
            return Some(Self::Stats);
        }
        let (kind, name) = text.split_once('/')?;
        match kind {
            "records" => match name.split_once('/') {
                None => Name::parse(name).map(Self::Collection),
                Some((name, id)) => Some(Self::Record(Name::parse(name)?, RecordId::parse(id)?)),
            },
            "conversations" => Uuid::try_parse(name).ok().map(Self::Conversation),
            "table" => TableName::parse(name).map(Self::Table),
            "topic" => {
                let is_name = (1..=MAX_PUBLISHED_BYTES).contains(&name.len()) && !name.contains(['?', '\0']);
                is_name.then(|| Self::Published(name.to_owned()))
            }
            _ => None,
        }
    }

    /// The module whose changes it has.
    pub(super) fn module(&self) -> Option<Module> {
        match self {
            Self::Collection(_) | Self::Record(..) => Some(Module::Records),
            Self::Conversation(_) => Some(Module::Conversations),
            Self::Table(_) | Self::Published(_) | Self::Stats => None,
        }
    }

    /// The watched table whose changes it has.
    pub(super) fn table(&self) -> Option<&TableName> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    /// Its objects, as far as options apply to them.
    pub(super) fn objects(&self) -> Objects {
        match self {
            Self::Collection(_) | Self::Record(..) => Objects::Records,
            Self::Table(_) => Objects::Rows,
            Self::Published(_) => Objects::Published,
            Self::Conversation(_) => Objects::Messages,
            Self::Stats => Objects::None,
        }
    }

    /// The permission that it requires.
    pub(super) fn requirement(&self) -> Requirement {
        match self {
            Self::Collection(_) | Self::Record(..) => Requirement::Scope(Scope::RecordsRead),
            Self::Conversation(_) => Requirement::Scope(Scope::ConversationsRead),
            Self::Table(name) => Requirement::Topic(name.to_string().into()),
            Self::Published(name) => Requirement::Topic(name.as_str().into()),
            Self::Stats => Requirement::Scope(Scope::OpsRead),
        }
    }

    /// Its name in the feed; `None`: the feed has no changes of it.
    fn feed_name(&self) -> Option<String> {
        Some(match self {
            Self::Collection(name) | Self::Record(name, _) => name.as_str().to_owned(),
            Self::Conversation(id) => conversations::topic(*id),
            Self::Table(name) => name.topic(),
            Self::Published(name) => published_topic(name),
            Self::Stats => return None,
        })
    }

    /// Whether it includes a change of its feed.
    fn includes(&self, change: &Change) -> bool {
        match self {
            Self::Record(_, id) => *change.record == *id.as_str(),
            _ => true,
        }
    }
}

/// As a client writes it.
impl std::fmt::Display for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Collection(name) => write!(f, "records/{}", name.as_str()),
            Self::Record(name, id) => write!(f, "records/{}/{}", name.as_str(), id.as_str()),
            Self::Conversation(id) => write!(f, "conversations/{id}"),
            Self::Table(name) => write!(f, "table/{name}"),
            Self::Published(name) => write!(f, "topic/{name}"),
            Self::Stats => f.write_str("stats"),
        }
    }
}

/// A topic with its options.
#[derive(Debug, Clone)]
pub(super) struct SelectedTopic {
    /// Its name in the feed; `None`: the feed has no changes of it.
    feed_name: Option<String>,
    pub(super) topic: Topic,
    pub(super) options: Options,
    pub(super) filter: CompiledFilter,
}

/// The topics of a stream, none of which includes another, whatever their options: so each change is one event.
#[derive(Debug, Clone, Default)]
pub(super) struct Topics(Vec<SelectedTopic>);

impl Topics {
    /// Reads a list of one to `max` topics; repetitions count once.
    pub(super) fn parse(list: impl Iterator<Item = String>, max: usize) -> Result<Self, ApiError> {
        let mut topics: Vec<SelectedTopic> = Vec::new();
        let refuse = |message: String| Err(ApiError::invalid(message).field("topics"));
        for text in list {
            let (name, options) = match text.split_once("?options=") {
                Some((name, options)) => (name, Some(options)),
                None => (text.as_str(), None),
            };
            let Some(topic) = Topic::parse(name) else {
                let start: String = text.chars().take(100).collect();
                return refuse(format!(
                    "'{start}' is no topic; topics are records/{{collection}}, records/{{collection}}/{{id}}, \
                     conversations/{{id}}, table/{{schema.table}}, topic/{{name}} and stats"
                ));
            };
            let options =
                options.map(|text| Options::parse(text, topic.objects())).transpose()?.unwrap_or_default();
            if let Some(known) = topics.iter().find(|known| known.topic == topic) {
                match known.options == options {
                    true => continue,
                    false => return refuse(format!("{topic} is there twice, with different options")),
                }
            }
            if topics.len() == max {
                return refuse(format!("topics takes up to {max} topics"));
            }
            let feed_name = topic.feed_name();
            topics.push(SelectedTopic { feed_name, topic, options, filter: CompiledFilter::default() });
        }
        if topics.is_empty() {
            return refuse(format!("topics takes one to {max} topics, such as records/items"));
        }
        let topics = Self(topics);
        topics.check_filter_bytes(&Self::default())?;
        topics.check_apart(&topics)?;
        Ok(topics)
    }

    /// Checks that their filters and those of `others` are not too long together.
    pub(super) fn check_filter_bytes(&self, others: &Self) -> Result<(), ApiError> {
        let bytes =
            self.0.iter().chain(&others.0).map(|selected| selected.options.filter_bytes()).sum::<usize>();
        if bytes > MAX_FILTERS_BYTES {
            let message = format!("the filters of a stream have up to {MAX_FILTERS_BYTES} bytes together");
            return Err(ApiError::invalid(message).field("filter"));
        }
        Ok(())
    }

    /// Checks that none of them is included in one of `others`, or is one of them with other options.
    pub(super) fn check_apart(&self, others: &Self) -> Result<(), ApiError> {
        let refuse = |message: String| Err(ApiError::invalid(message).field("topics"));
        for SelectedTopic { feed_name, topic, options, .. } in &self.0 {
            for other in others.0.iter().filter(|other| other.feed_name == *feed_name) {
                if other.topic == *topic && other.options != *options {
                    return refuse(format!("{topic} is there twice, with different options"));
                }
                if other.topic != *topic && matches!(other.topic, Topic::Collection(_)) {
                    return refuse(format!("{} includes {topic}", other.topic));
                }
            }
        }
        Ok(())
    }

    /// Whether one of them has changes in the feed.
    pub(super) fn has_feed(&self) -> bool {
        self.0.iter().any(|selected| selected.feed_name.is_some())
    }

    /// Whether the service's figures are among them.
    pub(super) fn has_stats(&self) -> bool {
        self.iter().any(|topic| *topic == Topic::Stats)
    }

    /// Checks that a position applies to one of them.
    pub(super) fn check_from(&self, from: Option<&Position>) -> Result<(), ApiError> {
        match from {
            Some(_) if !self.has_feed() => Err(ApiError::invalid("stats has no positions").field("from")),
            _ => Ok(()),
        }
    }

    /// Their number.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that are none of `others`.
    pub(super) fn without(&self, others: &Self) -> Self {
        let is_new = |selected: &&SelectedTopic| !others.iter().any(|other| *other == selected.topic);
        Self(self.0.iter().filter(is_new).cloned().collect())
    }

    /// Adds topics that are not among them.
    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter().map(|selected| &selected.topic)
    }

    /// Compiles their filters for a caller. Before it they match everything.
    pub(super) fn compile(&mut self, filters: &Filters, principal: &Principal) -> Result<(), ApiError> {
        let auth = principal.attributes();
        for SelectedTopic { topic, options, filter, .. } in &mut self.0 {
            *filter = options.compile(topic.objects(), filters, &auth)?;
        }
        Ok(())
    }

    /// Their names in the feed, each once.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.0.iter().filter_map(|selected| selected.feed_name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The topic that a change belongs to.
    pub(super) fn of(&self, change: &Change) -> Option<&SelectedTopic> {
        let mut all = self.0.iter();
        all.find(|selected| {
            selected.feed_name.as_deref() == Some(&*change.topic) && selected.topic.includes(change)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(topics: &[&str]) -> Result<Topics, ApiError> {
        Topics::parse(topics.iter().map(|topic| (*topic).to_owned()), 100)
    }

    #[test]
    fn topics_are_read_as_they_are_written_and_others_are_refused() {
        let id = "conversations/018f3f6e-0000-7000-8000-000000000001";
        let good = [
            "records/items",
            "records/items2/abcdefghij01234",
            id,
            "table/app.orders",
            "table/app.\"a.b\"",
            "topic/orders",
            "topic/a/b:c é",
            "stats",
        ];
        let topics = parse(&good).unwrap();
        let written: Vec<String> = topics.iter().map(ToString::to_string).collect();
        assert_eq!(written, good);
        for bad in [
            "",
            "records",
            "records/",
            "records/1a",
            "records/items/",
            "records/items/x.y",
            "conversations/x",
            "table/orders",
            "table/app.orders.x",
            "topic/",
            "topic/a?option={}",
            "stats/",
            "stats/x",
            "Records/items",
            "/records/items",
            "records/items/abcdefghij01234/x",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
        assert!(parse(&[&format!("topic/{}", "x".repeat(201))]).is_err());
        assert!(parse(&["records/a", "records/a/abcdefghij01234"]).is_err(), "one event a change");
        assert_eq!(parse(&["records/a", "records/a"]).unwrap().iter().count(), 1);
        let many: Vec<String> = (0..=100).map(|n| format!("topic/{n}")).collect();
        assert!(Topics::parse(many.iter().cloned(), 100).is_err());
        assert_eq!(Topics::parse(many.into_iter().skip(1), 100).unwrap().names().len(), 100);
    }

    #[test]
    fn topics_are_added_and_removed() {
        let mut topics = parse(&["topic/a", "records/a/abcdefghij01234"]).unwrap();
        let more = parse(&["topic/a", "topic/b", "records/a/abcdefghij01235"]).unwrap();
        let new = more.without(&topics);
        assert_eq!(new.len(), 2);
        new.check_apart(&topics).unwrap();
        topics.check_apart(&new).unwrap();
        let whole = parse(&["records/a"]).unwrap();
        assert!(topics.check_apart(&whole).is_err() && whole.check_apart(&topics).is_ok());
        topics.extend(new);
        assert_eq!(topics.names(), ["a", "topic:a", "topic:b"]);
        let left = topics.without(&parse(&["records/a/abcdefghij01235", "topic/b", "topic/c"]).unwrap());
        assert_eq!(left.names(), ["a", "topic:a"]);
    }

    #[test]
    fn options_belong_to_their_topic_and_filters_are_bounded_together() {
        let plain = parse(&["records/a"]).unwrap();
        assert_eq!(parse(&["records/a?options={}", "records/a"]).unwrap().names(), plain.names());
        assert!(parse(&[r#"records/a?options={"old":true}"#, "records/a"]).is_err(), "one event a change");
        assert!(parse(&[r#"records/a/abcdefghij01234?options={"old":true}"#, "records/a"]).is_err());
        let filter = |n: usize| format!(r#"records/a{n}?options={{"filter":"{}"}}"#, "x".repeat(8_000));
        assert!(Topics::parse((0..8).map(filter), 100).is_ok());
        assert!(Topics::parse((0..9).map(filter), 100).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".{0,60}", name in "(records|topic|table|conversations)/.{0,20}") {
            let _ = (Topic::parse(&text), Topic::parse(&name));
        }
    }
}
