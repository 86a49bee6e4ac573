//! The tables `stream_subscriptions`, `stream_subscription_links` and `stream_secrets`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::{Offset, StreamId, StreamPath};
use super::config::{Delivery, MAX_REQUEST_STREAMS, SubscriptionConfig, SubscriptionId};
use super::error::SubscriptionError;
use super::pattern::Pattern;
use super::random;
use super::signing::{Rotation, SEED_BYTES, SigningKey, SigningKeys};
use super::subscription::{
    Links, Locked, MAX_SHOWN_LINKS, Subscription, SubscriptionNumber, SubscriptionView,
};
use super::subscription_store::{
    Due, MAX_SUBSCRIPTIONS, PatternSource, SCAN_PAGE, ScanPosition, Secrets, Target,
};
use super::token::{SECRET_BYTES, TokenSecret};
use super::wake::{Link, Moment, Phase, Wake, WakeState};
use crate::db::{Connection, Database, DbError, Parameter, Transaction, begin_in_time, in_time, sql};
use crate::time::Micros;

const COLUMNS: &str = sql!("streams/subscriptions/columns.sql");
const LIVING: &str = sql!("streams/subscriptions/living.sql");
const ACKED: &str = sql!("streams/subscriptions/acked.sql");

/// The values of `phase`.
const DUE: i16 = 0;
const ANNOUNCED: i16 = 1;
const LEASED: i16 = 2;

/// Subscriptions in Postgres.
#[derive(Debug, Clone)]
pub(super) struct PostgresSubscriptions {
    database: Database,
    timeout: Duration,
}

impl PostgresSubscriptions {
    pub(super) fn new(database: &Database) -> Self {
        Self { database: database.clone(), timeout: database.statement_timeout() }
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DbError> {
        self.database.query_in_time(self.timeout, sql, parameters).await
    }

    pub(super) async fn create(
        &self,
        id: &SubscriptionId,
        config: &SubscriptionConfig,
    ) -> Result<(SubscriptionView, bool), SubscriptionError> {
        if !self.exists(id).await? {
            let mut connection = self.database.get().await?;
            let created = in_time(self.timeout, self.create_with(&mut connection, id, config)).await;
            if connection.release(created)? {
                let view = self.view(id).await?.ok_or(SubscriptionError::NotFound)?;
                return Ok((view, true));
            }
        }
        let (view, hash) = self.find(id).await?.ok_or(SubscriptionError::TooMany)?;
        if hash == config.hash() { Ok((view, false)) } else { Err(SubscriptionError::Exists) }
    }

    async fn exists(&self, id: &SubscriptionId) -> Result<bool, DbError> {
        let find = sql!(self.database, "streams/subscriptions/find.sql", columns = COLUMNS);
        Ok(!self.query(find, &[(&id.as_str(), Type::TEXT)]).await?.is_empty())
    }

    /// Adds a subscription with its links. False: it is there, or there are too many.
    async fn create_with(
        &self,
        connection: &mut Connection,
        id: &SubscriptionId,
        config: &SubscriptionConfig,
    ) -> Result<bool, DbError> {
        let transaction = begin_in_time(connection, self.timeout).await?;
        let url = match &config.delivery {
            Delivery::Webhook(url) => Some(url.as_str()),
            Delivery::PullWake => None,
        };
        let pattern = config.pattern.as_ref().map(Pattern::as_str);
        let wake_stream = config.wake_stream.as_ref().map(StreamPath::as_str);
        let (lease_ms, hash, most) = (config.lease_ms as i64, config.hash(), MAX_SUBSCRIPTIONS as i64);
        let parameters: [Parameter<'_>; 8] = [
            (&id.as_str(), Type::TEXT),
            (&url, Type::TEXT),
            (&pattern, Type::TEXT),
            (&wake_stream, Type::TEXT),
            (&lease_ms, Type::INT8),
            (&config.description, Type::TEXT),
            (&&hash[..], Type::BYTEA),
            (&most, Type::INT8),
        ];
        let create = sql!(self.database, "streams/subscriptions/create.sql");
        let rows = transaction.query_typed(create, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let number: i64 = row.try_get("number")?;
        self.link_matching(&transaction, number, config).await?;
        let paths: Vec<&str> = config.streams.iter().map(StreamPath::as_str).collect();
        let link = sql!(self.database, "streams/subscriptions/link_explicit.sql");
        transaction.execute_typed(link, &[(&number, Type::INT8), (&paths, Type::TEXT_ARRAY)]).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Links all streams that the pattern matches, at their ends.
    async fn link_matching(
        &self,
        transaction: &Transaction<'_>,
        number: i64,
        config: &SubscriptionConfig,
    ) -> Result<(), DbError> {
        let Some(pattern) = &config.pattern else { return Ok(()) };
        let (prefix, limit) = (pattern.literal_prefix(), SCAN_PAGE as i64);
        let mut after = String::new();
        loop {
            let matching = sql!(self.database, "streams/subscriptions/matching.sql");
            let parameters: [Parameter<'_>; 3] =
                [(&prefix, Type::TEXT), (&after, Type::TEXT), (&limit, Type::INT8)];
            let page = paths(&transaction.query_typed(matching, &parameters).await?)?;
            let Some(last) = page.last() else { return Ok(()) };
            last.as_str().clone_into(&mut after);
            let is_last = page.len() < SCAN_PAGE;
            let matched: Vec<&str> =
                page.iter().filter(|path| config.matches(path)).map(StreamPath::as_str).collect();
            let link = sql!(self.database, "streams/subscriptions/link_found.sql");
            let parameters: [Parameter<'_>; 3] =
                [(&number, Type::INT8), (&matched, Type::TEXT_ARRAY), (&true, Type::BOOL)];
            transaction.execute_typed(link, &parameters).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn find(&self, id: &SubscriptionId) -> Result<Option<(SubscriptionView, Vec<u8>)>, DbError> {
        let find = sql!(self.database, "streams/subscriptions/find.sql", columns = COLUMNS);
        let rows = self.query(find, &[(&id.as_str(), Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (subscription, state) = (read_subscription(row)?, read_state(row)?);
        let (number, limit) = (subscription.number.0 as i64, MAX_SHOWN_LINKS as i64 + 1);
        let shown =
            sql!(self.database, "streams/subscriptions/shown_links.sql", living = LIVING, acked = ACKED);
        let rows = self.query(shown, &[(&number, Type::INT8), (&limit, Type::INT8)]).await?;
        let mut links: Vec<Link> = rows.iter().map(read_link).collect::<Result<_, _>>()?;
        let has_more = links.len() > MAX_SHOWN_LINKS;
        links.truncate(MAX_SHOWN_LINKS);
        let view = SubscriptionView { subscription, state, links, has_more };
        Ok(Some((view, row.try_get("config_hash")?)))
    }

    pub(super) async fn view(
        &self,
        id: &SubscriptionId,
    ) -> Result<Option<SubscriptionView>, SubscriptionError> {
        Ok(self.find(id).await?.map(|(view, _)| view))
    }

    pub(super) async fn delete(&self, id: &SubscriptionId) -> Result<bool, DbError> {
        let delete = sql!(self.database, "streams/subscriptions/delete.sql");
        Ok(!self.query(delete, &[(&id.as_str(), Type::TEXT)]).await?.is_empty())
    }

    pub(super) async fn link_explicit(
        &self,
        number: SubscriptionNumber,
        paths: &[StreamPath],
    ) -> Result<(), SubscriptionError> {
        let link = sql!(self.database, "streams/subscriptions/link_explicit.sql");
        let (number, paths) = (number.0 as i64, texts(paths));
        self.query(link, &[(&number, Type::INT8), (&paths, Type::TEXT_ARRAY)]).await?;
        Ok(())
    }

    pub(super) async fn unlink_explicit(
        &self,
        number: SubscriptionNumber,
        path: &StreamPath,
        is_matched: bool,
    ) -> Result<(), DbError> {
        let unlink = match is_matched {
            true => sql!(self.database, "streams/subscriptions/unlink_explicit.sql"),
            false => sql!(self.database, "streams/subscriptions/unlink.sql"),
        };
        let number = number.0 as i64;
        self.query(unlink, &[(&number, Type::INT8), (&path.as_str(), Type::TEXT)]).await?;
        Ok(())
    }

    pub(super) async fn link_found(
        &self,
        number: SubscriptionNumber,
        paths: &[StreamPath],
    ) -> Result<(), SubscriptionError> {
        let link = sql!(self.database, "streams/subscriptions/link_found.sql");
        let (number, paths) = (number.0 as i64, texts(paths));
        let parameters: [Parameter<'_>; 3] =
            [(&number, Type::INT8), (&paths, Type::TEXT_ARRAY), (&false, Type::BOOL)];
        match self.query(link, &parameters).await {
            // Deleted meanwhile.
            Err(error) if error.constraint().is_some() => Ok(()),
            linked => Ok(linked.map(drop)?),
        }
    }

    pub(super) async fn decide<T>(
        &self,
        target: Target<'_>,
        named: &[StreamPath],
        wanted: Links,
        decide: impl FnOnce(Locked<'_>) -> T + Send,
    ) -> Result<Option<T>, SubscriptionError> {
        let (next_id, random) = (random::wake_id()?, fastrand::f64());
        let mut connection = self.database.get().await?;
        let deciding = async {
            let transaction = begin_in_time(&mut connection, self.timeout).await?;
            let Some((subscription, before)) = self.lock(&transaction, target).await? else {
                return Ok(None);
            };
            let (mut links, now) = self.links(&transaction, subscription.number, named, wanted).await?;
            let acked_before: Vec<Offset> = links.iter().map(|link| link.acked).collect();
            let mut state = before.clone();
            let moment = Moment {
                links: &mut links,
                now,
                delivery: &subscription.config.delivery,
                lease_ms: subscription.config.lease_ms,
                next_id: &next_id,
                random,
            };
            let decided = decide(Locked { subscription: &subscription, state: &mut state, moment });
            let acked: Vec<&Link> = links
                .iter()
                .zip(&acked_before)
                .filter(|(link, before)| link.acked != **before)
                .map(|(link, _)| link)
                .collect();
            if state != before || !acked.is_empty() {
                self.save(&transaction, subscription.number, &state, &acked).await?;
            }
            transaction.commit().await?;
            Ok(Some(decided))
        };
        let decided = in_time(self.timeout * 3, deciding).await;
        Ok(connection.release(decided)?)
    }

    async fn lock(
        &self,
        transaction: &Transaction<'_>,
        target: Target<'_>,
    ) -> Result<Option<(Subscription, WakeState)>, DbError> {
        let (id, number) = match target {
            Target::Id(id) => (Some(id.as_str()), None),
            Target::Number(number) => (None, Some(number.0 as i64)),
        };
        let lock = sql!(self.database, "streams/subscriptions/lock.sql", columns = COLUMNS);
        let rows = transaction.query_typed(lock, &[(&id, Type::TEXT), (&number, Type::INT8)]).await?;
        rows.first().map(|row| Ok((read_subscription(row)?, read_state(row)?))).transpose()
    }

    async fn links(
        &self,
        transaction: &Transaction<'_>,
        number: SubscriptionNumber,
        named: &[StreamPath],
        wanted: Links,
    ) -> Result<(Vec<Link>, Micros), DbError> {
        let (shows_all, limit) = match wanted {
            Links::ToShow => (true, MAX_SHOWN_LINKS as i64),
            // One more with pending data than a request can name.
            Links::Pending => (false, 2 * MAX_REQUEST_STREAMS as i64 + 1),
        };
        let (number, named) = (number.0 as i64, texts(named));
        let parameters: [Parameter<'_>; 4] = [
            (&number, Type::INT8),
            (&named, Type::TEXT_ARRAY),
            (&shows_all, Type::BOOL),
            (&limit, Type::INT8),
        ];
        let links =
            sql!(self.database, "streams/subscriptions/decide_links.sql", living = LIVING, acked = ACKED);
        let rows = transaction.query_typed(links, &parameters).await?;
        let now = rows.first().map_or(Ok(0), |row| row.try_get("now_us"))?;
        let found = rows.iter().filter_map(|row| match row.try_get::<_, Option<&str>>("path") {
            Ok(None) => None,
            Ok(Some(_)) => Some(read_link(row)),
            Err(error) => Some(Err(error.into())),
        });
        Ok((found.collect::<Result<_, _>>()?, Micros(now)))
    }

    async fn save(
        &self,
        transaction: &Transaction<'_>,
        number: SubscriptionNumber,
        state: &WakeState,
        acked: &[&Link],
    ) -> Result<(), DbError> {
        let (number, generation, failures) =
            (number.0 as i64, state.generation as i64, i32::try_from(state.failures).unwrap_or(i32::MAX));
        let wake_id = state.wake.as_ref().map(|wake| wake.id.as_str());
        let (phase, holder) = match state.wake.as_ref().map(|wake| &wake.phase) {
            None => (None, None),
            Some(Phase::Due(_)) => (Some(DUE), None),
            Some(Phase::Announced) => (Some(ANNOUNCED), None),
            Some(Phase::Leased { holder, .. }) => (Some(LEASED), holder.as_deref()),
        };
        let due = state.due().map(SystemTime::from);
        let paths: Vec<&str> = acked.iter().map(|link| link.path.as_str()).collect();
        let streams: Vec<Option<i64>> =
            acked.iter().map(|link| link.stream.map(|stream| stream.0 as i64)).collect();
        let offsets: Vec<i64> = acked.iter().map(|link| link.acked.0 as i64).collect();
        let parameters: [Parameter<'_>; 11] = [
            (&number, Type::INT8),
            (&generation, Type::INT8),
            (&wake_id, Type::TEXT),
            (&phase, Type::INT2),
            (&due, Type::TIMESTAMPTZ),
            (&holder, Type::TEXT),
            (&failures, Type::INT4),
            (&state.failure, Type::TEXT),
            (&paths, Type::TEXT_ARRAY),
            (&streams, Type::INT8_ARRAY),
            (&offsets, Type::INT8_ARRAY),
        ];
        let save = sql!(self.database, "streams/subscriptions/save.sql");
        let rows = transaction.query_typed(save, &parameters).await?;
        let stored: i64 = rows.first().map_or(Ok(0), |row| row.try_get("stored"))?;
        DbError::all_stored("stream_subscriptions", 1 + acked.len() as u64, stored.unsigned_abs())
    }

    pub(super) async fn patterns(&self, known: u64) -> Result<Option<PatternSource>, SubscriptionError> {
        let all = sql!(self.database, "streams/subscriptions/all.sql", columns = COLUMNS);
        let known = known as i64;
        let rows = self.query(all, &[(&known, Type::INT8)]).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let revision: i64 = first.try_get("revision").map_err(DbError::from)?;
        let is_row = |row: &&Row| row.try_get::<_, Option<&str>>("id").is_ok_and(|id| id.is_some());
        let subscriptions =
            rows.iter().filter(is_row).map(read_subscription).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(PatternSource { revision: revision as u64, subscriptions }))
    }

    pub(super) async fn idle_of(&self, paths: &[StreamPath]) -> Result<Vec<SubscriptionNumber>, DbError> {
        let idle = sql!(self.database, "streams/subscriptions/idle_of.sql");
        numbers(&self.query(idle, &[(&texts(paths), Type::TEXT_ARRAY)]).await?)
    }

    pub(super) async fn idle_with_data(&self) -> Result<Vec<SubscriptionNumber>, DbError> {
        let idle =
            sql!(self.database, "streams/subscriptions/idle_with_data.sql", living = LIVING, acked = ACKED);
        numbers(&self.query(idle, &[]).await?)
    }

    pub(super) async fn due(&self) -> Result<Due, DbError> {
        let rows = self.query(sql!(self.database, "streams/subscriptions/due.sql"), &[]).await?;
        let mut due = Due::default();
        for row in &rows {
            match row.try_get::<_, i64>("wait_us")? {
                wait_us if wait_us > 0 => due.next_at(Micros(wait_us), Micros(0)),
                _ => due.now.push(number(row)?),
            }
        }
        Ok(due)
    }

    pub(super) async fn scan(
        &self,
        from: ScanPosition,
    ) -> Result<(Vec<StreamPath>, Option<ScanPosition>), DbError> {
        let scan = sql!(self.database, "streams/subscriptions/scan.sql");
        let limit = SCAN_PAGE as i64;
        let rows = self.query(scan, &[(&from.after, Type::INT8), (&limit, Type::INT8)]).await?;
        let last = rows.last().map(|row| row.try_get("id")).transpose()?;
        Ok((paths(&rows)?, last.map(|after| ScanPosition { after })))
    }

    pub(super) async fn forget_links(&self) -> Result<(), DbError> {
        self.query(sql!(self.database, "streams/subscriptions/forget_links.sql"), &[]).await?;
        Ok(())
    }

    pub(super) async fn secrets(&self) -> Result<Secrets, SubscriptionError> {
        let all = sql!(self.database, "streams/subscriptions/secrets.sql");
        let (signing, token, now) = read_secrets(&self.query(all, &[]).await?)?;
        if let Some(token) = token
            && signing.rotation(now) == Rotation::default()
        {
            return Ok(Secrets { signing, token, read_at: now });
        }
        let mut connection = self.database.get().await?;
        let rotated = in_time(self.timeout, self.rotate(&mut connection)).await;
        let secrets = connection.release(rotated)?;
        secrets.ok_or(SubscriptionError::NoRandomness)
    }

    /// Takes the next step of the rotation. `None`: there are no random bytes.
    async fn rotate(&self, connection: &mut Connection) -> Result<Option<Secrets>, DbError> {
        let transaction = begin_in_time(connection, self.timeout).await?;
        transaction.batch_execute(sql!(self.database, "streams/subscriptions/lock_secrets.sql")).await?;
        let all = sql!(self.database, "streams/subscriptions/secrets.sql");
        let (signing, token, now) = read_secrets(&transaction.query_typed(all, &[]).await?)?;
        let Rotation { add, delete } = signing.rotation(now);
        let mut keys = signing.into_kept(&delete);
        let token = match token {
            Some(token) => token,
            None => {
                let Ok(secret) = random::bytes::<SECRET_BYTES>() else { return Ok(None) };
                self.add_secret(&transaction, "token", "token", &secret, now).await?;
                TokenSecret::new(secret)
            }
        };
        if let Some(signs_from) = add {
            let Ok(seed) = random::bytes::<SEED_BYTES>() else { return Ok(None) };
            let key = SigningKey::new(&seed, signs_from);
            self.add_secret(&transaction, key.kid(), "signing", &seed, signs_from).await?;
            keys.push(key);
        }
        let forget = sql!(self.database, "streams/subscriptions/delete_secrets.sql");
        transaction.execute_typed(forget, &[(&delete, Type::TEXT_ARRAY)]).await?;
        transaction.commit().await?;
        Ok(Some(Secrets { signing: SigningKeys::new(keys), token, read_at: now }))
    }

    async fn add_secret(
        &self,
        transaction: &Transaction<'_>,
        id: &str,
        kind: &str,
        secret: &[u8],
        since: Micros,
    ) -> Result<(), DbError> {
        let add = sql!(self.database, "streams/subscriptions/add_secret.sql");
        let since = SystemTime::from(since);
        let parameters: [Parameter<'_>; 4] =
            [(&id, Type::TEXT), (&kind, Type::TEXT), (&secret, Type::BYTEA), (&since, Type::TIMESTAMPTZ)];
        let stored = transaction.execute_typed(add, &parameters).await?;
        DbError::all_stored("stream_secrets", 1, stored)
    }
}

fn texts(paths: &[StreamPath]) -> Vec<&str> {
    paths.iter().map(StreamPath::as_str).collect()
}

fn path(text: &str) -> Result<StreamPath, DbError> {
    StreamPath::new(text).map_err(|_| DbError::Unexpected("a path that no stream can have"))
}

fn paths(rows: &[Row]) -> Result<Vec<StreamPath>, DbError> {
    rows.iter().map(|row| path(row.try_get("path")?)).collect()
}

fn number(row: &Row) -> Result<SubscriptionNumber, DbError> {
    Ok(SubscriptionNumber(row.try_get::<_, i64>("number")?.unsigned_abs()))
}

fn numbers(rows: &[Row]) -> Result<Vec<SubscriptionNumber>, DbError> {
    rows.iter().map(number).collect()
}

fn offset(row: &Row, column: &str) -> Result<Offset, DbError> {
    Ok(Offset(row.try_get::<_, i64>(column)?.unsigned_abs()))
}

fn read_link(row: &Row) -> Result<Link, DbError> {
    Ok(Link {
        path: path(row.try_get("path")?)?,
        stream: row.try_get::<_, Option<i64>>("stream")?.map(|id| StreamId(id.unsigned_abs())),
        is_explicit: row.try_get("is_explicit")?,
        acked: offset(row, "acked")?,
        tail: offset(row, "tail")?,
    })
}

fn read_subscription(row: &Row) -> Result<Subscription, DbError> {
    let malformed = DbError::Unexpected("a malformed subscription");
    let (id, pattern) = (row.try_get("id")?, row.try_get::<_, Option<&str>>("pattern")?);
    let id = SubscriptionId::new(id).map_err(|_| malformed)?;
    let pattern = pattern.map(Pattern::parse).transpose();
    let wake_stream: Option<&str> = row.try_get("wake_stream")?;
    let config = SubscriptionConfig {
        delivery: row
            .try_get::<_, Option<String>>("webhook_url")?
            .map_or(Delivery::PullWake, Delivery::Webhook),
        pattern: pattern.map_err(|_| DbError::Unexpected("a malformed pattern"))?,
        // They are links.
        streams: std::collections::BTreeSet::new(),
        wake_stream: wake_stream.map(path).transpose()?,
        lease_ms: row.try_get::<_, i64>("lease_ms")?.unsigned_abs(),
        description: row.try_get("description")?,
    };
    let created_at = Micros(row.try_get("created_us")?);
    Ok(Subscription { id, number: number(row)?, config: Arc::new(config), created_at })
}

fn read_state(row: &Row) -> Result<WakeState, DbError> {
    let due = Micros(row.try_get::<_, Option<i64>>("due_us")?.unwrap_or_default());
    let wake = match (row.try_get::<_, Option<String>>("wake_id")?, row.try_get::<_, Option<i16>>("phase")?) {
        (Some(id), Some(phase)) => {
            let phase = match phase {
                DUE => Phase::Due(due),
                ANNOUNCED => Phase::Announced,
                _ => Phase::Leased { until: due, holder: row.try_get("holder")? },
            };
            Some(Wake { id, phase })
        }
        _ => None,
    };
    Ok(WakeState {
        generation: row.try_get::<_, i64>("generation")?.unsigned_abs(),
        wake,
        failures: row.try_get::<_, i32>("failures")?.unsigned_abs(),
        failure: row.try_get("failure")?,
    })
}

fn read_secrets(rows: &[Row]) -> Result<(SigningKeys, Option<TokenSecret>, Micros), DbError> {
    let (mut keys, mut token, mut now) = (Vec::new(), None, Micros::EARLIEST);
    let malformed = |_| DbError::Unexpected("a secret of another length");
    for row in rows {
        now = Micros(row.try_get("now_us")?);
        let Some(kind) = row.try_get::<_, Option<&str>>("kind")? else { continue };
        let (secret, since) = (row.try_get::<_, &[u8]>("secret")?, Micros(row.try_get("since_us")?));
        match kind {
            "token" => token = Some(TokenSecret::new(secret.try_into().map_err(malformed)?)),
            _ => {
                let seed: [u8; SEED_BYTES] = secret.try_into().map_err(malformed)?;
                keys.push(SigningKey::new(&seed, since));
            }
        }
    }
    Ok((SigningKeys::new(keys), token, now))
}
