// A dedicated worker: the only place where a browser opens files of its private file system for synchronous access.

import init, { Image } from "./program.js";

// The browser's own cache would keep every range a second time, and it lets only one request for an address through at
// a time, where the reader asks for several. The source calls this instead.
const plainFetch = self.fetch.bind(self);
self.fetch = (request) => plainFetch(request, { cache: "no-store" });

// Held as long as the page is open, and with it the cache file.
let image;

onmessage = async ({ data: { url, ahead } }) => {
  try {
    await init();
    const began = performance.now();
    image = await Image.open(url);
    if (ahead) await image.keep_all();
    const report = JSON.parse(await image.read_all());
    postMessage({ ...report, millis: performance.now() - began });
  } catch (error) {
    postMessage({ error: String(error) });
  }
};
