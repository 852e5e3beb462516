"use strict";

// What a visit knows: the key, if the service asks for one, and how long its answers took. Both stay
// in the memory of this page; reloading forgets them.

let key = "";
const roundTrips = [];

async function send(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    askForKey(key ? "The service does not know that key, or no longer."
      : "This service asks for a key. It stays in this page until you reload it.");
  }
  if (response.status === 403) askForKey("That key does not open this: it needs the scope classify.");
  return response;
}

function askForKey(note) {
  const form = document.getElementById("key-form");
  document.getElementById("key-note").textContent = note;
  form.hidden = false;
  document.querySelector('nav a[href="/metrics"]').hidden = true; // a link carries no key
  document.getElementById("key").focus();
}

function showLatency(milliseconds) {
  roundTrips.push(milliseconds);
  if (roundTrips.length > 50) roundTrips.shift();
  const slowest = Math.max(...roundTrips);
  document.getElementById("latency-view").replaceChildren(...roundTrips.map((one) => {
    const beat = document.createElement("div");
    beat.className = "beat";
    beat.style.height = `${(one / slowest) * 100}%`;
    return beat;
  }));
  document.getElementById("latency-card").hidden = roundTrips.length < 2;
  const sorted = [...roundTrips].sort((a, b) => a - b);
  const tell = (share) => `${sorted[Math.floor((sorted.length - 1) * share)].toFixed(0)} ms`;
  document.getElementById("latency").textContent = `The last ${roundTrips.length} answers, the newest `
    + `on the right: half within ${tell(0.5)}, the slowest ${tell(1)}, round trip.`;
}

document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = document.getElementById("key").value.trim();
  event.target.hidden = true;
  document.getElementById("problem").hidden = true;
  watchModels();
});
