//! A live etcd, page by page.

#![forbid(unsafe_code)]

use std::error::Error as _;
use std::time::Duration;

use prost::Message;
use prost::bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::member::Member;
use super::{Cluster, Error, Progress, Tally, Unit, causes};
use crate::proto::etcd::kv_client::KvClient;
use crate::proto::etcd::{RangeRequest, RangeResponse};

/// Most objects of a page, and the size of a page that is aimed at: large enough that
/// the way there and back does not count.
const MOST: i64 = 500;
const AIM: usize = 2 << 20;

/// The largest page that is taken. One that is larger is asked for again in smaller
/// parts.
const LARGEST: usize = 16 << 20;

/// The largest object. etcd's own limit is 1.5 MiB unless `--max-request-bytes` says
/// otherwise, and its authors advise against more than 10 MiB.
const LARGEST_OBJECT: usize = 64 << 20;

/// How long a member may take to take the call, with TLS and all.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long a member may take for a page.
const PAGE_TIME: Duration = Duration::from_secs(30);

/// Counts all objects under the prefix at one revision.
pub(super) async fn count(
    cluster: &Cluster,
    progress: &mut dyn FnMut(Progress),
) -> Result<Tally, Error> {
    let mut reader = Reader::new(cluster);
    // Revisions are there for five minutes at least after they were made. If that was
    // too short, something had stood still, and may not again.
    for _ in 0..2 {
        if let Some(tally) = count_once(&mut reader, cluster, progress).await? {
            return Ok(tally);
        }
    }
    Err(Error::Inconsistent(
        "twice, the moment that was counted was compacted before the end. Count when etcd has less \
         to do, or count a snapshot (--snapshot)"
            .to_owned(),
    ))
}

/// None if the revision was compacted meanwhile.
async fn count_once(
    reader: &mut Reader<'_>,
    cluster: &Cluster,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Tally>, Error> {
    let prefix = cluster.prefix.as_bytes();
    let mut request = RangeRequest {
        key: prefix.to_vec().into(),
        range_end: end_of(prefix),
        limit: 0,
        revision: 0,
    };
    let mut tally = Tally::default();
    let mut first = None;
    loop {
        let page = match reader.page(&mut request).await? {
            Page::Read(page) => page,
            Page::Compacted => return Ok(None),
        };
        let header = page.header.unwrap_or_default();
        let (cluster_id, total) = *first.get_or_insert((header.cluster_id, page.count));
        if cluster_id != header.cluster_id {
            let what = "the endpoints are of different clusters: count each of them by itself";
            return Err(Error::Inconsistent(what.to_owned()));
        }
        if request.revision == 0 {
            tally.revision = header.revision;
            request.revision = header.revision;
        }
        for pair in &page.kvs {
            let name = pair.key.strip_prefix(prefix).filter(|_| pair.key >= request.key);
            let Some(name) = name else {
                return Err(Error::Inconsistent("it gave other keys than were asked for".into()));
            };
            tally.add(name, &pair.value);
        }
        let total = u64::try_from(total).unwrap_or(0);
        progress(Progress { unit: Unit::Objects, done: tally.total.objects, total });
        match page.kvs.last() {
            Some(last) if page.more => request.key = after(&last.key),
            _ if tally.total.objects == total => return Ok(Some(tally)),
            _ => {
                let given = tally.total.objects;
                let what = format!("it told of {total} objects and gave {given}");
                return Err(Error::Inconsistent(what));
            }
        }
    }
}

/// The key behind all that begin with the prefix, which ends with a slash.
fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// The key right behind this one.
fn after(key: &[u8]) -> Bytes {
    [key, b"\0"].concat().into()
}

enum Page {
    Read(RangeResponse),
    Compacted,
}

/// Asks one member after the other.
struct Reader<'a> {
    cluster: &'a Cluster,
    /// Which member is asked, and the connection to it.
    next: usize,
    client: Option<KvClient<Channel>>,
    /// Objects of the next page.
    limit: i64,
}

/// Why a member gave no page.
enum NoPage {
    Compacted,
    TooLarge,
    Failed(String),
}

impl<'a> Reader<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, next: 0, client: None, limit: MOST }
    }

    /// The next page, from the first member that gives it; the one that gave the last
    /// page is asked first.
    async fn page(&mut self, request: &mut RangeRequest) -> Result<Page, Error> {
        let members = &self.cluster.members;
        let mut failed = Vec::new();
        while failed.len() < members.len() {
            let Some(member) = members.get(self.next % members.len()) else { break };
            request.limit = self.limit;
            match self.ask(member, request).await {
                Ok(page) => {
                    self.fit(&page);
                    return Ok(Page::Read(page));
                }
                Err(NoPage::Compacted) => return Ok(Page::Compacted),
                Err(NoPage::TooLarge) if self.limit > 1 => self.limit = (self.limit / 4).max(1),
                Err(NoPage::TooLarge) => {
                    let what = format!("an object is larger than {LARGEST_OBJECT} bytes");
                    return Err(Error::Inconsistent(what));
                }
                Err(NoPage::Failed(why)) => {
                    failed.push((member.endpoint.clone(), why));
                    self.client = None;
                    self.next += 1;
                }
            }
        }
        Err(Error::Unreachable(failed))
    }

    /// The next page is to be about as large as is aimed at, if its objects are like
    /// those of this one.
    fn fit(&mut self, page: &RangeResponse) {
        let size = page.encoded_len().max(1);
        let count = page.kvs.len().max(1);
        let fitting = i64::try_from(AIM * count / size).unwrap_or(MOST);
        // Not much more at once: the next ones may be larger.
        self.limit = fitting.min(self.limit * 2).clamp(1, MOST);
    }

    async fn ask(
        &mut self,
        member: &Member,
        request: &RangeRequest,
    ) -> Result<RangeResponse, NoPage> {
        let client = match self.client.take() {
            Some(client) => client,
            None => connect(member).await.map_err(NoPage::Failed)?,
        };
        let largest = if request.limit == 1 { LARGEST_OBJECT } else { LARGEST };
        let mut client = client.max_decoding_message_size(largest);
        let answer = tokio::time::timeout(PAGE_TIME, client.range(request.clone())).await;
        self.client = Some(client);
        match answer {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(no_page(&status, member.hint)),
            Err(_) => Err(NoPage::Failed(format!("gave no answer within {PAGE_TIME:?}"))),
        }
    }
}

async fn connect(member: &Member) -> Result<KvClient<Channel>, String> {
    let why = match tokio::time::timeout(CONNECT_TIME, member.target.connect()).await {
        Ok(Ok(channel)) => return Ok(KvClient::new(channel)),
        Ok(Err(error)) => causes(error.source()),
        Err(_) => format!("no answer within {CONNECT_TIME:?}"),
    };
    Err(format!("cannot connect: {why}; {}", member.hint))
}

/// etcd tells these apart by words alone (etcdserver/api/v3rpc/rpctypes); the first of
/// "too large" is tonic's, the second that of etcd's own gRPC.
fn no_page(status: &Status, hint: &str) -> NoPage {
    let says = |words: &str| status.message().contains(words);
    match status.code() {
        Code::OutOfRange if says("has been compacted") => NoPage::Compacted,
        Code::OutOfRange if says("message length too large") => NoPage::TooLarge,
        Code::ResourceExhausted if says("larger than max") => NoPage::TooLarge,
        _ if status.source().is_some() => {
            NoPage::Failed(format!("the connection broke: {}; {hint}", causes(status.source())))
        }
        code => NoPage::Failed(format!("answered {code:?}: {}", status.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcd::KeyValue;

    #[test]
    fn a_range_ends_right_behind_the_prefix() {
        assert_eq!(end_of(b"/registry/"), "/registry0");
        assert_eq!(end_of(b"/"), "0");
        assert_eq!(after(b"/a"), "/a\0");
    }

    #[test]
    fn pages_fit_the_objects() {
        let etcd = crate::config::Etcd {
            endpoints: vec!["127.0.0.1:1".parse().unwrap()],
            ..crate::config::Etcd::default()
        };
        let super::super::Source::Etcd(cluster) = super::super::Source::new(&etcd).unwrap() else {
            unreachable!()
        };
        let mut reader = Reader::new(&cluster);
        let page = |count: usize, size: usize| {
            let pair = KeyValue { value: vec![0; size].into(), ..KeyValue::default() };
            RangeResponse { kvs: vec![pair; count], ..RangeResponse::default() }
        };
        reader.fit(&page(500, 4096));
        assert_eq!(reader.limit, 500);
        reader.fit(&page(10, 1 << 20));
        assert_eq!(reader.limit, 1);
        reader.fit(&page(1, 100));
        assert_eq!(reader.limit, 2);
        reader.fit(&page(0, 0));
        assert_eq!(reader.limit, 4);
    }

    #[test]
    fn what_etcd_says_is_told_apart() {
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        let future = "etcdserver: mvcc: required revision is a future revision";
        let kind = |code, words: &str| match no_page(&Status::new(code, words), "") {
            NoPage::Compacted => "compacted".to_owned(),
            NoPage::TooLarge => "too large".to_owned(),
            NoPage::Failed(why) => why,
        };
        assert_eq!(kind(Code::OutOfRange, compacted), "compacted");
        assert_eq!(kind(Code::OutOfRange, future), format!("answered OutOfRange: {future}"));
        let busy = "etcdserver: too many requests";
        assert!(kind(Code::ResourceExhausted, busy).starts_with("answered ResourceExhausted"));
        let large = "grpc: trying to send message larger than max (5 vs. 4)";
        assert_eq!(kind(Code::ResourceExhausted, large), "too large");
    }
}
