//! Modules: the parts of the service that can be off (`MODULES`).
//!
//! A module that is off has no routes, no tasks, no connections and no memory, and its tables are not created. Tables from a time when
//! it was on are kept, and migrated with the others. Events, accounts and operations are always on: everything else exists beside them.
//!
//! To add a module is to add its entry to [`ALL_MODULES`], a line to `modules!` in `src/http/mod.rs`, and its start to `src/app.rs`, which the
//! compiler then asks for.

use super::quotas::PoolUse;
use super::{Config, ConfigError, Variables, refuse};

/// A module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// Events, with dead letters and reconciliation. Always on.
    Events,
    /// Events in the protocols of other SDKs.
    Intake,
    /// Records.
    Records,
    /// Conversations.
    Conversations,
    /// Files.
    Files,
    /// Imports of the lines of files.
    Imports,
    /// Durable Streams.
    Streams,
    /// The web page.
    Web,
    /// The stress API.
    Stress,
    /// Typed collections, in the protocol of PocketBase.
    PocketBase,
}

/// Where a module is on by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnByDefault {
    Always,
    /// Where no token is required.
    Open,
    Never,
}

/// The declaration of a module.
#[derive(Debug)]
pub struct ModuleInfo {
    /// The module.
    pub module: Module,
    /// Its name in `MODULES`.
    pub name: &'static str,
    /// Where it is on if `MODULES` is unset.
    on: OnByDefault,
    /// The modules that it cannot do without.
    pub needs: &'static [Module],
    /// Its tables. A set that several modules list exists if one of them is on.
    pub tables: &'static [TableSet],
    /// Its uses of the pool.
    pub(super) uses: &'static [PoolUse],
    /// Its share of `MEMORY_BUDGET`, in parts of 32. Subscribers have 4 more, with the feed.
    pub(super) memory_parts: u64,
    /// Settings without effect where no module is on that lists them.
    settings: &'static [&'static str],
}

/// Tables that are created together, with their sequences and functions. A statement of a migration belongs to the set of the first table that it
/// names, or to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSet {
    /// The name in `tidegate_table_sets`.
    pub name: &'static str,
    /// Tables, sequences and functions, a table first.
    pub relations: &'static [&'static str],
}

/// The feed of changes. No module of its own: it is on where a module is that lists its tables.
const CHANGES: TableSet = TableSet {
    name: "changes",
    relations: &[
        "changes",
        "change_numbers",
        "feed_floor",
        "feed_readers",
        "feed_positions",
        "tidegate_publish",
        "client_nodes",
        "client_messages",
        "client_positions",
        "watched_tables",
        "tidegate_watch_topic",
        "tidegate_watch_tree",
        "tidegate_watch_is_below",
        "tidegate_watch_feed",
        "tidegate_watch_json_value",
        "tidegate_watch_base",
        "tidegate_watch_is_plain",
        "tidegate_watch_json",
        "tidegate_watch_guard",
        "tidegate_watch_key",
        "tidegate_watch_statements",
        "tidegate_watch_source",
        "tidegate_watch_settings",
        "tidegate_watch_apply",
        "tidegate_watch_remove",
        "tidegate_watch_forget",
        "tidegate_watch_check_rights",
        "tidegate_watch_caller",
        "tidegate_watch_own_tables",
        "tidegate_watch",
        "tidegate_unwatch",
        "tidegate_watch_check",
    ],
};

/// Streams in Postgres.
const STREAMS: TableSet = TableSet {
    name: "streams",
    relations: &[
        "streams",
        "stream_chunks",
        "stream_producers",
        "stream_subscriptions",
        "stream_subscription_links",
        "stream_secrets",
        "stream_inbox",
        "streams_messages",
        "tidegate_stream_text",
        "tidegate_stream_json",
        "tidegate_append_row",
        "tidegate_append",
    ],
};

/// Files of users and of records.
const FILES: TableSet = TableSet { name: "files", relations: &["files", "file_store", "record_files"] };

/// Every module, in the order of lists.
pub static ALL_MODULES: [ModuleInfo; 10] = [
    ModuleInfo {
        module: Module::Events,
        name: "events",
        on: OnByDefault::Always,
        needs: &[],
        tables: &[],
        uses: &[PoolUse::OPERATIONS, PoolUse::ACCOUNTS],
        memory_parts: 16,
        settings: &[],
    },
    ModuleInfo {
        module: Module::Intake,
        name: "intake",
        on: OnByDefault::Always,
        needs: &[Module::Events],
        tables: &[],
        uses: &[],
        memory_parts: 0,
        settings: &["INTAKE"],
    },
    ModuleInfo {
        module: Module::Records,
        name: "records",
        on: OnByDefault::Always,
        needs: &[Module::Events],
        tables: &[CHANGES, TableSet { name: "records", relations: &["collections"] }],
        uses: &[PoolUse::RECORDS, PoolUse::RECORD_COMMITS],
        memory_parts: 2,
        settings: &[
            "RECORDS_AUTO_CREATE",
            "CHANGES_RETENTION_S",
            "MAX_SUBSCRIBERS",
            "MAX_USER_SUBSCRIBERS",
            "SUBSCRIBER_BYTES",
            "SUBSCRIBERS_BYTES",
            "SSE_HEARTBEAT_S",
        ],
    },
    ModuleInfo {
        module: Module::Conversations,
        name: "conversations",
        on: OnByDefault::Always,
        needs: &[Module::Events],
        tables: &[
            CHANGES,
            TableSet {
                name: "conversations",
                relations: &[
                    "conversations",
                    "messages",
                    "message_drafts",
                    "message_pieces",
                    "message_keys",
                    "search_documents",
                    "search_rebuild",
                ],
            },
        ],
        uses: &[PoolUse::CONVERSATIONS, PoolUse::CONVERSATION_COMMITS],
        memory_parts: 2,
        settings: &[
            "CHANGES_RETENTION_S",
            "MAX_MESSAGE_BYTES",
            "MAX_SUBSCRIBERS",
            "MAX_USER_SUBSCRIBERS",
            "SUBSCRIBER_BYTES",
            "SUBSCRIBERS_BYTES",
            "SSE_HEARTBEAT_S",
        ],
    },
    ModuleInfo {
        module: Module::Files,
        name: "files",
        on: OnByDefault::Always,
        needs: &[Module::Events],
        tables: &[FILES],
        uses: &[PoolUse::FILES],
        memory_parts: 1,
        settings: &["MAX_FILE_BYTES", "FILE_QUOTA_BYTES", "FILES_SWEEP_S"],
    },
    ModuleInfo {
        module: Module::Imports,
        name: "imports",
        on: OnByDefault::Always,
        // Lines that are conversations or messages are rejected where these are off.
        needs: &[Module::Events, Module::Files],
        tables: &[TableSet { name: "imports", relations: &["imports", "import_parts", "import_rejected"] }],
        uses: &[PoolUse::IMPORTS],
        memory_parts: 1,
        settings: &["MAX_SUBSCRIBERS"],
    },
    ModuleInfo {
        module: Module::Streams,
        name: "streams",
        on: OnByDefault::Always,
        needs: &[Module::Events],
        // By the feed nodes wake each other.
        tables: &[CHANGES, STREAMS],
        uses: &[PoolUse::STREAMS, PoolUse::STREAM_COMMITS],
        memory_parts: 2,
        settings: &[
            "CHANGES_RETENTION_S",
            "MAX_SUBSCRIBERS",
            "SSE_HEARTBEAT_S",
            "STREAMS_STORE",
            "STREAMS_LONG_POLL_TIMEOUT_MS",
            "STREAMS_MAX_ANSWER_BYTES",
            "STREAMS_CURSOR_INTERVAL_S",
            "STREAMS_CURSOR_EPOCH",
            "STREAMS_REGISTRY_PATH",
            "STREAMS_COMPACT_AFTER_S",
            "WEBHOOK_ALLOW_PRIVATE",
        ],
    },
    ModuleInfo {
        module: Module::Web,
        name: "web",
        on: OnByDefault::Always,
        needs: &[Module::Events],
        tables: &[],
        uses: &[],
        memory_parts: 0,
        settings: &[],
    },
    ModuleInfo {
        module: Module::Stress,
        name: "stress",
        on: OnByDefault::Open,
        // Large payloads are in collections.
        needs: &[Module::Events, Module::Records],
        tables: &[TableSet { name: "stress", relations: &["large_payloads", "large_payload_parts"] }],
        uses: &[PoolUse::LARGE, PoolUse::ERRORS],
        memory_parts: 4,
        settings: &["MAX_SUBSCRIBERS", "SUBSCRIBER_BYTES", "SSE_HEARTBEAT_S"],
    },
    ModuleInfo {
        module: Module::PocketBase,
        name: "pocketbase",
        on: OnByDefault::Never,
        // Its collections are those of records, in the same tables, and changes of their fields come by the feed.
        needs: &[Module::Events, Module::Records],
        // Its files are kept as those of the module files, whose routes may be off.
        tables: &[
            FILES,
            TableSet { name: "pocketbase", relations: &["app_settings", "mail_limits", "request_logs"] },
        ],
        uses: &[],
        memory_parts: 0,
        settings: &["MAX_FILE_BYTES", "FILES_SWEEP_S", "WEBHOOK_ALLOW_PRIVATE"],
    },
];

/// The word for all modules.
const ALL: &str = "all";

pub(super) const MODULES_TAKE: &str = "names with commas between: events, intake, records, conversations, files, imports, streams, web, stress, pocketbase; or all";

impl Module {
    /// Its declaration.
    pub fn info(self) -> &'static ModuleInfo {
        ALL_MODULES.iter().find(|info| info.module == self).unwrap_or(&ALL_MODULES[0])
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A set of modules: those that are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modules(u32);

impl Modules {
    /// Every module.
    pub fn all() -> Self {
        ALL_MODULES.iter().map(|info| info.module).collect()
    }

    /// The modules that are on where `MODULES` is unset.
    fn default_where(is_open: bool) -> Self {
        let is_on = |info: &&ModuleInfo| match info.on {
            OnByDefault::Always => true,
            OnByDefault::Open => is_open,
            OnByDefault::Never => false,
        };
        ALL_MODULES.iter().filter(is_on).map(|info| info.module).collect()
    }

    /// Parses the value of `MODULES`.
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut modules = Self(0);
        for word in text.split(',').map(str::trim) {
            if word == ALL {
                return Ok(Self::all());
            }
            match ALL_MODULES.iter().find(|info| info.name == word) {
                Some(info) => modules.0 |= info.module.bit(),
                None => {
                    let takes = format!("{MODULES_TAKE}; {word:?} is none of them");
                    return Err(refuse("MODULES", text, takes));
                }
            }
        }
        for info in modules.infos() {
            let missing: Vec<&str> = info
                .needs
                .iter()
                .filter(|needed| !modules.has(**needed))
                .map(|needed| needed.info().name)
                .collect();
            if !missing.is_empty() {
                let takes = format!("{} too, as {} needs it", missing.join(" and "), info.name);
                return Err(refuse("MODULES", text, takes));
            }
        }
        Ok(modules)
    }

    /// Whether a module is on.
    pub fn has(self, module: Module) -> bool {
        self.0 & module.bit() != 0
    }

    /// Whether the feed of changes is on, and with it the stream of changes.
    pub fn has_feed(self) -> bool {
        self.infos().any(|info| info.tables.contains(&CHANGES))
    }

    /// The declarations of the modules that are on.
    pub fn infos(self) -> impl Iterator<Item = &'static ModuleInfo> {
        ALL_MODULES.iter().filter(move |info| self.has(info.module))
    }

    /// Their names.
    pub fn names(self) -> Vec<&'static str> {
        self.infos().map(|info| info.name).collect()
    }

    /// The sets of their tables, each once.
    pub fn table_sets(self) -> Vec<TableSet> {
        let mut sets: Vec<TableSet> = Vec::new();
        for set in self.infos().flat_map(|info| info.tables) {
            if !sets.contains(set) {
                sets.push(*set);
            }
        }
        sets
    }

    /// Notes on variables that are set and have no effect, as the modules that read them are off.
    pub(super) fn notes(self, variables: &Variables) -> Vec<String> {
        let mut notes = Vec::new();
        for (index, info) in ALL_MODULES.iter().enumerate() {
            for setting in info.settings.iter().filter(|setting| variables.is_set(setting)) {
                let reads = |info: &&ModuleInfo| info.settings.contains(setting);
                let is_noted = ALL_MODULES.iter().take(index).any(|info| reads(&info));
                if !is_noted && !self.infos().any(|info| reads(&info)) {
                    let off: Vec<&str> = ALL_MODULES.iter().filter(reads).map(|info| info.name).collect();
                    notes.push(format!("{setting} has no effect: MODULES lacks {}", off.join(", ")));
                }
            }
        }
        notes
    }
}

impl FromIterator<Module> for Modules {
    fn from_iter<I: IntoIterator<Item = Module>>(modules: I) -> Self {
        Self(modules.into_iter().fold(0, |bits, module| bits | module.bit()))
    }
}

impl Config {
    /// The modules that are on (`MODULES`).
    pub fn modules(&self) -> Modules {
        let chosen = self.modules.modules.as_deref().and_then(|text| Modules::parse(text).ok());
        chosen.unwrap_or_else(|| Modules::default_where(self.is_open()))
    }

    /// Refuses unknown modules, and those whose dependencies are off.
    pub(super) fn check_modules(&self) -> Result<(), ConfigError> {
        self.modules.modules.as_deref().map_or(Ok(()), |text| Modules::parse(text).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::load;
    use crate::config::{ALL_SETTINGS, Setting};

    #[test]
    fn all_modules_are_on_by_default_but_pocketbase_and_stress_where_auth_is_required() {
        let all = [
            "events",
            "intake",
            "records",
            "conversations",
            "files",
            "imports",
            "streams",
            "web",
            "stress",
            "pocketbase",
        ];
        assert_eq!(load(&[]).unwrap().modules().names(), all[..9]);
        assert_eq!(load(&[("AUTH", "required")]).unwrap().modules().names(), all[..8]);
        assert_eq!(load(&[("AUTH", "required"), ("MODULES", "all")]).unwrap().modules().names(), all);
        let some = load(&[("MODULES", "imports, files ,events,files")]).unwrap().modules();
        assert_eq!(some.names(), ["events", "files", "imports"]);
    }

    #[test]
    fn an_unknown_module_and_a_missing_dependency_are_refused_in_one_line() {
        for (text, takes) in [
            ("events,mail", format!("{MODULES_TAKE}; \"mail\" is none of them")),
            ("Events", format!("{MODULES_TAKE}; \"Events\" is none of them")),
            ("events,", format!("{MODULES_TAKE}; \"\" is none of them")),
            ("events,imports", "files too, as imports needs it".into()),
            ("imports", "events and files too, as imports needs it".into()),
            ("events,stress", "records too, as stress needs it".into()),
            ("events,pocketbase", "records too, as pocketbase needs it".into()),
            ("conversations", "events too, as conversations needs it".into()),
        ] {
            let error = load(&[("MODULES", text)]).unwrap_err().to_string();
            assert_eq!(error, format!("MODULES: got {text:?}, takes {takes}"));
        }
    }

    #[test]
    fn the_help_names_every_module_and_each_entry_is_at_its_place() {
        for (place, info) in ALL_MODULES.iter().enumerate() {
            assert_eq!(info.module as usize, place);
            assert_eq!(info.module.info().name, info.name);
            assert!(MODULES_TAKE.contains(info.name), "{}", info.name);
        }
    }

    #[test]
    fn settings_of_modules_that_are_off_are_noted_once() {
        let settings: Vec<&Setting> = ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings).collect();
        for name in ALL_MODULES.iter().flat_map(|info| info.settings) {
            assert!(settings.iter().any(|setting| setting.name == *name), "{name}");
        }
        let set = [("CHANGES_RETENTION_S", "60"), ("FILES_SWEEP_S", "60"), ("MAX_SUBSCRIBERS", "50")];
        assert_eq!(load(&set).unwrap().notes, [""; 0]);
        let notes = |modules| load(&[&set[..], &[("MODULES", modules)]].concat()).unwrap().notes;
        assert_eq!(
            notes("events"),
            [
                "CHANGES_RETENTION_S has no effect: MODULES lacks records, conversations, streams",
                "MAX_SUBSCRIBERS has no effect: MODULES lacks records, conversations, imports, streams, stress",
                "FILES_SWEEP_S has no effect: MODULES lacks files, pocketbase",
            ]
        );
        assert_eq!(notes("events,records,files,imports"), [""; 0]);
    }
}
