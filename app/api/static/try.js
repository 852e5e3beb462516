"use strict";

const EXAMPLES = [
  "my parcel was due tuesday and still nothing",
  "put two of the blue mugs in my basket",
  "these boots are too small, i want the next size",
  "mogu li platiti na rate?",
  "¿dónde está mi pedido 4711?",
  "what's the capital of france",
];
const RANKING = 5;

const byId = (id) => document.getElementById(id);
const form = byId("form");
const text = byId("text");
let thresholds = {};
let newest = 0;

const readable = (intent) => intent.replaceAll("_", " ");
// Never rounded up to a certainty that nobody claimed.
const percent = (share) => {
  const fine = share < 0.1 || share > 0.99;
  return `${(Math.floor(share * (fine ? 1000 : 100) + 1e-9) / (fine ? 10 : 1)).toFixed(fine ? 1 : 0)} %`;
};
// A limit is rounded up: what is a little under it does not reach it.
const atLeast = (share) => `${(Math.ceil(share * 1000 - 1e-9) / 10).toFixed(1)} %`;
const languageNames = new Intl.DisplayNames("en", { type: "language", fallback: "code" });
const language = (code) => {
  try {
    return languageNames.of(code);
  } catch { // not a code but a name that a trainer chose
    return code;
  }
};
const milliseconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} ms`;

function element(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}

function bar(scored, chosen) {
  const item = element("li", chosen ? "chosen" : "");
  const track = element("div", "track");
  track.setAttribute("aria-hidden", "true");
  const fill = element("div", "fill");
  track.append(fill);
  item.append(
    element("span", "name", readable(scored.intent)),
    track,
    element("span", "value", percent(scored.confidence)),
  );
  requestAnimationFrame(() => requestAnimationFrame(() => {
    fill.style.width = `${Math.max(scored.confidence * 100, 0.5)}%`;
  }));
  return item;
}

function showFacts(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", "", name), element("dd", "", value));
    return pair;
  }));
}

const whence = (found, roundTrip) => [
  ["queue", milliseconds(found.timings_ms.queue)],
  ["inference", milliseconds(found.timings_ms.inference)],
  ["service", milliseconds(found.timings_ms.total)],
  ["round trip", milliseconds(roundTrip)],
  ["model", `${found.model.name} ${found.model.version}, ${found.model.backend}`],
];

// The key itself is not shown: what is on a screen is soon in a picture of it.
const curl = (path, request) => `curl ${location.origin}${path} \\\n`
  + (key ? '  -H "authorization: Bearer $SHOPINTENT_KEY" \\\n' : "")
  + "  -H 'content-type: application/json' \\\n"
  + `  -d '${JSON.stringify(request).replaceAll("'", "'\\''")}'`;

function showDecision(request, found, roundTrip) {
  byId("problem").hidden = true;
  byId("result").hidden = false;
  byId("intent").textContent = readable(found.intent);
  byId("confidence").textContent = percent(found.confidence);
  const scope = byId("scope");
  scope.textContent = found.in_scope ? "in scope" : "not for this shop’s assistant";
  scope.classList.toggle("out", !found.in_scope);
  const threshold = thresholds[found.model.name];
  byId("bars").replaceChildren(...found.ranking.map(
    (scored) => bar(scored, scored.intent === found.intent),
  ));
  byId("threshold").textContent = threshold === undefined ? ""
    : `It gives an intent when it is at least ${atLeast(threshold)} sure that the message is in its scope.`;
  showFacts(byId("facts"), whence(found, roundTrip));
  byId("request").textContent = curl("/v1/classify", request);
  byId("answer").textContent = JSON.stringify(found, null, 2);
}

function showProblem(title, detail) {
  byId("result").hidden = true;
  byId("cart-result").hidden = true;
  byId("problem").hidden = false;
  byId("problem-title").textContent = title;
  byId("problem-detail").textContent = detail;
}

// Asks, and shows the answer or the problem, unless another question has been asked meanwhile.
async function ask(path, request, button, show) {
  const turn = ++newest;
  button.disabled = true;
  try {
    const started = performance.now();
    const response = await send(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(request),
    });
    const answer = await response.json();
    const roundTrip = performance.now() - started;
    if (turn !== newest) return;
    if (response.ok) {
      show(request, answer, roundTrip);
      showLatency(roundTrip);
    }
    else if (![401, 403].includes(response.status)) showProblem(answer.title, `${answer.detail ?? ""} (${answer.status}, request ${answer.request_id})`);
  } catch {
    if (turn === newest) showProblem("The service does not answer", "Is it still running?");
  } finally {
    button.disabled = false;
  }
}

async function classify() {
  if (!text.value.trim()) return text.focus();
  const request = { text: text.value, top_k: RANKING };
  if (byId("model").value) request.model = byId("model").value;
  return ask("/v1/classify", request, byId("send"), showDecision);
}

async function describeModels() {
  const listed = await send("/v1/models");
  const { models, title } = await listed.json();
  if (!listed.ok) {
    byId("status").textContent = [401, 403].includes(listed.status)
      ? "The service asks for a key." : `The service says: ${title}.`;
    return;
  }
  const details = await Promise.all(models.map(async (model) => (
    (await send(`/v1/models/${encodeURIComponent(model.name)}`)).json()
  )));
  const live = details.filter((model) => model.state === "live");
  thresholds = Object.fromEntries(live.map((model) => [model.name, model.threshold]));
  byId("status").textContent = details.map((model) => (model.state === "live"
    ? `${model.name} ${model.version} knows ${model.intent_count} intents in ${model.languages.map(language).join(", ")} (${model.backend}).`
    : `${model.name}: ${model.reason ?? model.state}.`)).join(" ");
  if (models.length > 1) {
    byId("model").replaceChildren(...models.map((model) => new Option(model.name, model.name)));
    byId("model-choice").hidden = false;
  }
  offerCarts(live.filter((model) => model.tasks.includes("cart")));
  if (details.some((model) => model.state === "loading")) setTimeout(watchModels, 1000);
}

function watchModels() {
  return describeModels().catch(() => { byId("status").textContent = "The service does not answer."; });
}

// The form, its Enter key and the examples below it all lead to the same question.
function wire(questionForm, field, list, examples, question) {
  questionForm.addEventListener("submit", (event) => {
    event.preventDefault();
    question();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      question();
    }
  });
  list.append(...examples.map((example) => {
    const item = element("li");
    const button = element("button", "", example);
    button.type = "button";
    button.addEventListener("click", () => {
      field.value = example;
      question();
    });
    item.append(button);
    return item;
  }));
}

wire(form, text, byId("examples"), EXAMPLES, classify);
// After all scripts of the page: the tab for carts is offered once the models are known.
addEventListener("DOMContentLoaded", async () => {
  await watchModels();
  // A link to a message: what stands after the # stays in the browser.
  const linked = new URLSearchParams(location.hash.slice(1));
  const toCart = linked.get("tab") === "cart" && !byId("tabs").hidden;
  if (toCart) chooseTab(byId("cart-tab"));
  if (linked.get("text")) {
    (toCart ? cartText : text).value = linked.get("text");
    if (toCart) readCart();
    else classify();
  }
});
