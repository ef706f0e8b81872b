//! What the API server does for watchers of Assignments: so many plain connections watch one, which is changed.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use jiff::Timestamp;
use kube::{Api, Client, ResourceExt, api::PostParams, client::Body};
use sluice_crds::Assignment;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    numbers::{count, millis, percentile, rounded},
    usage::Process,
    world::{GROUPS, LIMIT, World},
};
use crate::{
    figures::Figures,
    wait::{Look, until},
};

/// Changes for one line of the table.
const CHANGES: u32 = 20;
/// So long the API server is left alone, to know what it uses by itself.
const IDLE: Duration = Duration::from_secs(3);
/// Connections that are opened at one time.
const OPEN_AT_ONCE: usize = 50;

/// One line of the table.
struct Line {
    watchers: usize,
    cpu_ms: f64,
    told_ms: f64,
    memory_mib: f64,
    peak_mib: f64,
}

pub(super) async fn measure(world: &World<'_>, numbers: &[usize], figures: &mut Figures) -> Result<String> {
    let mut lines = Vec::new();
    for watchers in numbers {
        lines.push(line(world, *watchers).await.with_context(|| format!("{watchers} watchers"))?);
    }
    for line in &lines {
        let name = |what: &str| format!("one change, {} watchers of the Assignment: {what}", line.watchers);
        figures.add(name("API server's CPU"), line.cpu_ms, "ms");
        figures.add(name("the last one is told, p50"), line.told_ms, "ms");
        figures.add(name("API server's memory before"), line.memory_mib, "MiB");
        figures.add(name("API server's memory at most"), line.peak_mib, "MiB");
    }
    Ok(table(&lines))
}

async fn line(world: &World<'_>, number: usize) -> Result<Line> {
    let api: Api<Assignment> = Api::all(world.client.clone());
    let server = world.api_server_process()?;
    let mut watchers = Watchers::default();
    watchers.open(&world.client, number).await?;
    let idle = used(server, IDLE, async || until_passed(IDLE).await).await?;
    server.forget_peak()?;
    let memory_mib = rounded(server.memory_mib()?);
    let mut told = Vec::new();
    let (began, cpu) = (Instant::now(), server.cpu()?);
    for _ in 0..CHANGES {
        told.push(watchers.change(&api).await?);
    }
    let by_itself = idle * began.elapsed().as_secs_f64();
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64() - by_itself;
    Ok(Line {
        watchers: number,
        cpu_ms: rounded(1000.0 * cpu.max(0.0) / f64::from(CHANGES)),
        told_ms: rounded(percentile(&told, 50)),
        memory_mib,
        peak_mib: rounded(server.peak_mib()?.max(memory_mib)),
    })
}

/// CPU that a process uses a second while this is awaited.
async fn used(process: Process, time: Duration, idle: impl AsyncFnOnce() -> Result<()>) -> Result<f64> {
    let cpu = process.cpu()?;
    idle().await?;
    Ok(process.cpu()?.saturating_sub(cpu).as_secs_f64() / time.as_secs_f64())
}

async fn until_passed(time: Duration) -> Result<()> {
    let began = Instant::now();
    until("the time to pass", time * 2, || async {
        Ok(if began.elapsed() >= time { Look::Done(()) } else { Look::NotYet("not yet".to_owned()) })
    })
    .await
}

/// Open watches; each a connection of its own, as HTTP/1 has it.
#[derive(Default)]
struct Watchers {
    number: usize,
    heard: Arc<AtomicUsize>,
    news: Arc<Notify>,
    tasks: JoinSet<()>,
}

impl Watchers {
    async fn open(&mut self, client: &Client, number: usize) -> Result<()> {
        self.number = number;
        let version = Api::<Assignment>::all(client.clone()).get(GROUPS[0]).await?.resource_version();
        let version = version.context("an object has a version")?;
        for at_once in (0..number).collect::<Vec<_>>().chunks(OPEN_AT_ONCE) {
            let opened = at_once.iter().map(|_| open(client, &version));
            for body in futures::future::try_join_all(opened).await? {
                self.tasks.spawn(listen(body, Arc::clone(&self.heard), Arc::clone(&self.news)));
            }
        }
        Ok(())
    }

    /// Changes the Assignment. Other than the operator it reads it first, and has the whole of it back. Milliseconds until every
    /// watcher has heard of it.
    async fn change(&self, api: &Api<Assignment>) -> Result<f64> {
        self.heard.store(0, Ordering::SeqCst);
        let mut assignment = api.get(GROUPS[0]).await?;
        assignment.spec.wire.generation += 1;
        let began = Timestamp::now();
        api.replace(GROUPS[0], &PostParams::default(), &assignment).await?;
        let all = async {
            loop {
                let news = self.news.notified();
                if self.heard.load(Ordering::SeqCst) >= self.number {
                    return Timestamp::now();
                }
                news.await;
            }
        };
        let ended = tokio::time::timeout(LIMIT, all).await.context("some watcher was not told")?;
        Ok(millis(began, ended))
    }
}

async fn open(client: &Client, version: &str) -> Result<Body> {
    let uri = format!(
        "/apis/sluice.dev/v1alpha1/assignments?watch=true&fieldSelector=metadata.name%3D{}&resourceVersion={version}\
         &timeoutSeconds=600",
        GROUPS[0]
    );
    let answer = client.send(http::Request::get(uri).body(Body::empty())?).await?;
    anyhow::ensure!(answer.status().is_success(), "a watch was refused: {}", answer.status());
    Ok(answer.into_body())
}

/// Counts events: each is a line.
async fn listen(mut body: Body, heard: Arc<AtomicUsize>, news: Arc<Notify>) {
    while let Some(Ok(frame)) = body.frame().await {
        let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
        if lines > 0 {
            heard.fetch_add(lines, Ordering::SeqCst);
            news.notify_one();
        }
    }
}

fn table(lines: &[Line]) -> String {
    let mut table = String::from(
        "  watchers of the Assignment   CPU a change   last one is told, p50   memory before   memory at most\n",
    );
    for line in lines {
        let _infallible = writeln!(
            table,
            "  {:>26}   {:>9} ms   {:>18} ms   {:>9} MiB   {:>10} MiB",
            count(line.watchers),
            line.cpu_ms,
            line.told_ms,
            line.memory_mib,
            line.peak_mib
        );
    }
    table
}
