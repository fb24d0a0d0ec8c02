// Starts the worker and shows its report.

const element = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

const worker = new Worker("worker.js", { type: "module" });

// Settles in any case, so that nobody waits for a worker that is gone.
globalThis.report = new Promise((resolve) => {
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = (event) => resolve({ error: event.message || "the worker could not be started" });
});

function show(report) {
  element("json").textContent = JSON.stringify(report, null, 2);
  if (report.error) {
    element("status").className = "failed";
    element("status").textContent = `Failed: ${report.error}`;
    return;
  }
  const { stats, counters } = report;
  // A block that did not match its checksum counts as a hit, and was fetched all the same.
  const repaired = counters.checksum_mismatched_blocks;
  const fetched = stats.total_misses + repaired;
  const warm = fetched === 0;
  element("status").className = warm ? "warm" : "cold";
  element("status").textContent = warm ? "Warm: no block came over the network." : "Cold: blocks came over the network.";
  if (report.cache === "memory") {
    element("note").textContent =
      "The cache file could not be opened, perhaps because another tab has it. " +
      `The blocks are kept in memory until this page is closed. (${report.why_in_memory})`;
  }
  const failures = counters.backend_read_failures + counters.backend_write_failures + counters.backend_flush_failures;
  const figures = {
    "Read": `${number(report.read_bytes)} bytes in ${number(Math.round(report.millis))} ms`,
    "From the cache": `${number(stats.total_hits - repaired)} blocks`,
    "From the network": `${number(fetched)} blocks`,
    "Kept": `${number(stats.cached_blocks)} of ${number(stats.total_blocks)} blocks, in ${report.cache === "file" ? "a file" : "memory"}`,
    "Repaired": `${number(repaired)} blocks`,
    "File system": failures === 0 ? "no failures" : `${number(failures)} failures`,
    "SHA-256": report.sha256,
  };
  element("figures").replaceChildren(...Object.entries(figures).flatMap(([term, text]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = term;
    dd.textContent = text;
    return [dt, dd];
  }));
}

// `?image=PATH` reads another image, `?ahead` fetches all of it before it is read.
const query = new URLSearchParams(location.search);
const url = new URL(query.get("image") ?? "disk.img", location).href;
worker.postMessage({ url, ahead: query.has("ahead") });
show(await report);
