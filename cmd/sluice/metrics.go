package main

import (
	"fmt"
	"strings"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/master"
	"github.com/sluicefs/sluice/internal/worker"
)

func counter(name, help string, v int64) metric {
	return metric{Name: name, Help: help, Counter: true, Value: float64(v)}
}

func gauge(name, help string, v int64) metric {
	return metric{Name: name, Help: help, Value: float64(v)}
}

func flag(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

// masterMetrics names a master's figures; docs/metrics.md lists them.
func masterMetrics(s master.Stats) []metric {
	return []metric{
		counter("sluice_master_calls_total", "Requests of clients and workers.", s.Calls),
		counter("sluice_master_journal_entries_total", "Entries proposed to the journal, each synced once.", s.Entries),
		counter("sluice_master_commands_total", "Commands in those entries; commands per entry is the size of a group.", s.Commands),
		counter("sluice_master_store_stats_total", "Questions to stores about one path.", s.StoreStats),
		counter("sluice_master_store_lists_total", "Pages of listings asked of stores.", s.StoreLists),
		gauge("sluice_master_sessions", "Client sessions that are alive.", int64(s.Sessions)),
		gauge("sluice_master_listeners", "Sessions that are told of changes.", int64(s.Listeners)),
		gauge("sluice_master_granted_files", "Files whose grants clients may use again.", int64(s.Tracked)),
		gauge("sluice_master_intents", "Changes of stores under way.", int64(s.Intents)),
		gauge("sluice_master_files", "Inodes in the namespace.", s.Files),
		gauge("sluice_master_primary", "1 while this master is the primary, else 0.", flag(s.Journal.Leading)),
		gauge("sluice_master_term", "The journal's term; it grows with every election.", int64(s.Journal.Term)),
		gauge("sluice_master_applied", "The last entry of the journal applied here; compare masters to see who lags.", int64(s.Journal.Applied)),
		gauge("sluice_master_state_disk_bytes", "Size of the metadata on disk.", s.State.DiskBytes),
		gauge("sluice_master_state_cache_bytes", "Metadata blocks held in memory.", s.State.CacheBytes),
		counter("sluice_master_state_cache_hits_total", "Metadata blocks found in memory.", s.State.CacheHits),
		counter("sluice_master_state_cache_misses_total", "Metadata blocks read from disk.", s.State.CacheMisses),
		counter("sluice_master_state_flushes_total", "Times changed metadata was written to tables.", s.State.Flushes),
		counter("sluice_master_state_compactions_total", "Times tables were merged.", s.State.Compactions),
		counter("sluice_master_state_stalls_total", "Times a commit had to wait for the metadata's disk.", s.State.Stalls),
	}
}

// workerMetrics names a worker's figures.
func workerMetrics(s worker.Stats) []metric {
	all := []metric{
		counter("sluice_worker_hits_total", "Ranges sent from the block store.", s.Hits),
		counter("sluice_worker_hit_bytes_total", "Their bytes. Reads by passed descriptor do not come by the worker and are not in here.", s.HitBytes),
		counter("sluice_worker_misses_total", "Pages that were fetched for a reader.", s.Misses),
		counter("sluice_worker_miss_bytes_total", "Bytes sent to readers that had to be fetched.", s.MissBytes),
		counter("sluice_worker_fills_total", "Calls to read from stores.", s.Fills),
		counter("sluice_worker_fetched_bytes_total", "Bytes read from stores; beside hits and misses this is the amplification.", s.FetchedBytes),
		counter("sluice_worker_waits_total", "Pages that a reader found on their way for another.", s.Waits),
		counter("sluice_worker_ahead_total", "Pages fetched ahead of their readers.", s.Ahead),
		counter("sluice_worker_uncached_total", "Pages served and not kept.", s.Uncached),
		counter("sluice_worker_corrupt_total", "Chunks dropped because they failed their checksum.", s.Corrupt),
		counter("sluice_worker_descriptors_total", "Descriptors passed to readers on this host.", s.Opened),
		counter("sluice_worker_descriptors_recalled_total", "Descriptors asked back because their block was dropped.", s.Recalled),
		counter("sluice_worker_descriptors_refused_total", "Descriptors not passed: the client holds too many, or does not give back what it is asked for.", s.Refused),
		gauge("sluice_worker_descriptors", "Descriptors that readers on this host hold.", s.Descriptors),
		gauge("sluice_worker_descriptor_holders", "Clients that hold them.", s.Holders),
		counter("sluice_worker_written_bytes_total", "Bytes taken from writers.", s.WrittenBytes),
		counter("sluice_worker_sealed_total", "Contents sealed.", s.Sealed),
		counter("sluice_worker_committed_total", "Contents made visible in their store by an order.", s.Committed),
		counter("sluice_worker_discarded_total", "Contents dropped before they were published.", s.Discarded),
		gauge("sluice_worker_uploads", "Contents held for writers and masters.", s.Uploads),
		gauge("sluice_worker_unpersisted_bytes", "Bytes that exist only here.", s.Store.Unpersisted),
		gauge("sluice_worker_pinned_bytes", "Bytes that are never evicted.", s.Store.Pinned),
	}
	for _, t := range s.Store.Tiers {
		for _, g := range []metric{
			gauge("sluice_worker_tier_quota_bytes", "What a tier may hold.", t.Quota),
			gauge("sluice_worker_tier_used_bytes", "What it holds.", t.Used),
			gauge("sluice_worker_tier_held_bytes", "Dropped but still open somewhere: clients are asked to let go of it.", t.Held),
			gauge("sluice_worker_tier_free_bytes", "What is left: quota - used - held.", t.Free),
			gauge("sluice_worker_tier_blocks", "Blocks in it.", t.Blocks),
		} {
			g.Labels = map[string]string{"tier": t.Name}
			all = append(all, g)
		}
	}
	return all
}

// metricsPage is docs/metrics.md.
func metricsPage() string {
	var b strings.Builder
	b.WriteString(`# What can be seen

<!-- Generated by ` + "`make docs`" + ` from cmd/sluice/metrics.go; a test keeps it current. -->

` + "`http://127.0.0.1:7480`" + ` (a master, or ` + "`sluice up`" + `) and ` + "`http://127.0.0.1:7481`" + ` (a worker) answer ` + "`/metrics`" + ` (Prometheus), ` + "`/health/live`" + `,
` + "`/health/ready`" + ` (503 with the reason while it cannot serve) and, on loopback, ` + "`/debug/pprof/`" + `. Besides these there are the usual figures of Go and the
process. Listeners beyond loopback (` + "`master.http`, `worker.http`" + `) answer the networks in
` + "`auth.trusted`" + ` only. Logs are structured lines on standard error (` + "`log.format: json`" + `). Secrets appear nowhere.

| metric | kind | meaning |
|---|---|---|
`)
	var s worker.Stats
	s.Store.Tiers = []sluice.TierInfo{{Name: "MEM"}}
	for _, m := range append(masterMetrics(master.Stats{}), workerMetrics(s)...) {
		kind := "gauge"
		if m.Counter {
			kind = "counter"
		}
		name := m.Name
		if len(m.Labels) > 0 {
			name += "{tier}"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, kind, m.Help)
	}
	return b.String()
}
