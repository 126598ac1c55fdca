// The service's page: a history is picked, and one request is answered twice, with speculation and without.
// Whatever comes from the service (titles may hold HTML) enters the document as text, by make() alone.

const $ = (id) => document.getElementById(id);

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children); // strings become text nodes
  return node;
}

// --- The service -----------------------------------------------------------------------------------------------------

let token = ""; // here only: not in storage, not in the address

class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, { body, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  let response, text;
  try {
    const method = body ? "POST" : "GET";
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service cannot be reached.");
  }
  let content = {};
  try {
    content = JSON.parse(text);
  } catch {} // a proxy may answer with something else: the status says enough
  if (response.ok) return content;
  const more = (content.errors ?? []).filter((each) => each.detail !== content.detail);
  const id = response.status >= 500 ? response.headers.get("X-Request-ID") : null;
  const parts = [
    content.detail ?? `The service answered ${response.status} ${response.statusText}`,
    ...more.map((each) => `${each.pointer} ${each.detail}`.trim()),
    ...(id ? [`request ${id}`] : []),
  ];
  throw new Problem(response.status, parts.join("; "));
}

// Shows what went wrong in an element beside what caused it; a missing token is asked for.
function report(error, element) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) throw error;
  if (error.status !== 401) {
    element.textContent = error.message;
    return;
  }
  $("token-problem").textContent = token ? "The service does not take this token." : "";
  $("token-form").hidden = false;
  $("token").focus();
}

async function start() {
  let catalog;
  try {
    catalog = await call("v1/catalog");
  } catch (error) {
    $("start-problem").textContent = "";
    report(error, $("start-problem"));
    // it is loading or not yet listening
    if (error.status === 503 || error.status === 0) setTimeout(start, 1000);
    return;
  }
  $("start-problem").textContent = "";
  $("token-problem").textContent = "";
  const { catalog_version: version, num_items: count, levels, num_beams: beams } = catalog;
  const size = `${count.toLocaleString("en")} items`;
  const texts = [size, `${levels} levels`, `beam width ${beams}`, `catalog version ${version}`];
  $("catalog").textContent = texts.join(" · ");
  $("k").max = beams;
  $("k").value = Math.min(10, beams);
  $("verification").value = catalog.verification;
  // titles are columns as well, but nobody filters by one
  document.querySelectorAll(".filter").forEach((node) => node.remove());
  $("options").append(...catalog.columns.filter((name) => name !== "title").map(filter));
  if (!$("token-form").hidden) $("search").focus();
  $("token-form").hidden = true;
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  $("token").value = "";
  start();
});

// --- Filters by metadata ---------------------------------------------------------------------------------------------

// The service lists columns, not their values: suggested are those of the items that were picked.
function filter(column) {
  const input = make("input", "");
  const label = make("label", "", `Only with ${column}`);
  const values = make("datalist", "");
  input.id = label.htmlFor = `filter-${column}`;
  input.placeholder = "any";
  input.dataset.column = column;
  values.id = `values-${column}`;
  input.setAttribute("list", values.id);
  return make("div", "filter", label, input, values);
}

function suggest(metadata) {
  for (const input of document.querySelectorAll(".filter input")) {
    const known = new Set([...input.list.options].map((option) => option.value));
    for (const value of [metadata[input.dataset.column] ?? []].flat()) {
      if (!known.has(value)) input.list.append(make("option", "", value));
    }
  }
}

// --- Search: the combobox with a list, as the ARIA Authoring Practices describe it --------------------------------------

const search = $("search");
const found = $("found");
let active = -1; // option that the arrow keys have reached
let finding = new AbortController();
let typing = 0;

async function find() {
  finding.abort();
  finding = new AbortController();
  try {
    const query = encodeURIComponent(search.value.trim());
    open((await call(`v1/items?limit=20&query=${query}`, { signal: finding.signal })).items);
  } catch (error) {
    report(error, $("search-problem"));
  }
}

function open(items) {
  found.replaceChildren(
    ...items.map((item, row) => {
      const option = make("li", "", ...naming(item));
      option.id = `found-${row}`;
      option.role = "option";
      option.ariaSelected = "false";
      option.addEventListener("click", () => add(item.id));
      return option;
    }),
  );
  found.hidden = items.length === 0;
  search.ariaExpanded = String(!found.hidden);
  activate(-1);
  announce(items.length ? `${items.length} items found` : "Nothing found");
}

function close() {
  clearTimeout(typing);
  finding.abort();
  found.hidden = true;
  search.ariaExpanded = "false";
  activate(-1);
}

function activate(row) {
  active = row;
  [...found.children].forEach((option, each) => (option.ariaSelected = String(each === row)));
  const option = found.children[row];
  if (option) search.setAttribute("aria-activedescendant", option.id);
  else search.removeAttribute("aria-activedescendant");
  option?.scrollIntoView({ block: "nearest" });
}

search.addEventListener("input", () => {
  $("search-problem").textContent = "";
  clearTimeout(typing);
  typing = setTimeout(find, 120);
});
search.addEventListener("click", find);
search.addEventListener("blur", close);
found.addEventListener("pointerdown", (event) => event.preventDefault()); // the focus stays in the field
search.addEventListener("keydown", (event) => {
  const count = found.hidden ? 0 : found.children.length;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const step = event.key === "ArrowDown" ? 1 : -1;
    if (!count) find();
    else activate(active < 0 ? (step > 0 ? 0 : count - 1) : (active + step + count) % count);
  } else if (event.key === "Enter" && (active >= 0 || search.value.trim())) {
    if (active >= 0) found.children[active].click();
    else add(search.value.trim()); // an ID that was typed
  } else if (event.key === "Escape") {
    if (!count) search.value = "";
    close();
  } else return;
  event.preventDefault();
});

// --- History ---------------------------------------------------------------------------------------------------------

let items = []; // oldest first

const nameOf = (item) => item.title ?? item.id;

function naming(item) {
  const id = make("span", "id", item.id);
  return item.title === null ? [id] : [make("span", "title", item.title), " ", id];
}

function announce(text) {
  $("announcement").textContent = text;
}

async function add(id) {
  const typed = search.value;
  $("search-problem").textContent = search.value = ""; // at once: a second Enter does not add it twice
  close();
  try {
    const item = await call(`v1/items/${encodeURIComponent(id)}`);
    items.push(item);
    suggest(item.metadata);
    show();
    announce(`${nameOf(item)} added, number ${items.length} of the history`);
  } catch (error) {
    search.value ||= typed;
    report(error, $("search-problem"));
  }
}

function move(row, step) {
  items.splice(row + step, 0, ...items.splice(row, 1));
  show();
  const buttons = [...$("history").children[row + step].querySelectorAll("button")];
  const same = buttons[step < 0 ? 0 : 1];
  (same.disabled ? buttons.find((button) => !button.disabled) : same).focus();
  announce(`${nameOf(items[row + step])} is number ${row + step + 1} of ${items.length}`);
}

function remove(row) {
  const [item] = items.splice(row, 1);
  show();
  const next = $("history").children[Math.min(row, items.length - 1)];
  (next ? next.querySelector("button:last-child") : search).focus();
  announce(`${nameOf(item)} removed, ${items.length} left`);
}

function show() {
  const button = (label, sign, action, disabled = false) => {
    const node = make("button", "", sign);
    node.type = "button";
    node.ariaLabel = node.title = label;
    node.disabled = disabled;
    node.addEventListener("click", action);
    return node;
  };
  $("history").replaceChildren(
    ...items.map((item, row) => {
      const buttons = make(
        "span",
        "buttons",
        button(`Move ${nameOf(item)} up`, "↑", () => move(row, -1), row === 0),
        button(`Move ${nameOf(item)} down`, "↓", () => move(row, 1), row === items.length - 1),
        button(`Remove ${nameOf(item)}`, "×", () => remove(row)),
      );
      return make("li", "", make("span", "rank", String(row + 1)), make("span", "what", ...naming(item)), buttons);
    }),
  );
  $("no-history").hidden = items.length > 0;
}

// --- Recommendations -------------------------------------------------------------------------------------------------

const [speculative, plain] = ["Speculative", "Plain search"].map((title) => {
  const card = $("card").content.cloneNode(true).firstElementChild;
  card.querySelector("h2").textContent = title;
  $("answers").append(card);
  return card;
});

function asked() {
  const where = {};
  for (const input of document.querySelectorAll(".filter input")) {
    if (input.value.trim()) where[input.dataset.column] = [input.value.trim()];
  }
  return {
    history: items.map((item) => item.id),
    k: $("k").valueAsNumber,
    exclude_seen: JSON.parse($("exclude-seen").value),
    verification: $("verification").value,
    where,
  };
}

async function answerOf(request) {
  const start = performance.now();
  const answer = await call("v1/recommendations", { body: request });
  return { ...answer, round_trip_ms: performance.now() - start };
}

// Fills a card; without an answer, with empty rows of the right number, so that nothing jumps when it arrives.
function fill(card, answer, k) {
  card.ariaBusy = String(!answer);
  for (const figure of card.querySelectorAll("[data-figure]")) {
    const value = answer?.[figure.dataset.figure];
    figure.textContent = value === undefined ? "–" : figure.dataset.figure.endsWith("_ms") ? `${value.toFixed(1)} ms` : value;
  }
  const rows = answer?.recommendations ?? Array(k).fill({ items: [{ id: "…", title: null }], sid: ["…"], score: null });
  card.querySelector("tbody").replaceChildren(
    ...rows.map((each, row) => {
      const names = each.items.map((item) => make("div", "", ...naming(item)));
      return make(
        "tr",
        "",
        make("td", "rank", String(row + 1)),
        make("td", "what", ...names, make("code", "", each.sid.join(" "))),
        make("td", "score", each.score === null ? "" : each.score.toFixed(3)),
      );
    }),
  );
  const notes = answer && [
    `${answer.verification} verification`,
    `catalog version ${answer.catalog_version}`,
    ...(answer.seed === null ? [] : [`seed ${answer.seed}`]),
    ...(rows.length < k ? [rows.length ? `only ${rows.length} of ${k} found` : "no item passes the filter"] : []),
  ];
  card.querySelector(".note").textContent = notes ? notes.join(" · ") : "…";
}

function judge(kind, headline, detail) {
  $("verdict").className = kind;
  $("verdict").replaceChildren(make("strong", "", headline), " ", detail);
}

function compare(fast, slow) {
  const key = (each) => JSON.stringify([each?.sid, each?.items.map((item) => item.id)]);
  const [ours, theirs] = [fast.recommendations, slow.recommendations];
  const ranks = [...Array(Math.max(ours.length, theirs.length)).keys()];
  const differing = ranks.filter((rank) => key(ours[rank]) !== key(theirs[rank]));
  for (const rank of differing) {
    for (const card of [speculative, plain]) card.querySelectorAll("tbody tr")[rank]?.classList.add("differs");
  }
  const decoded = [fast, slow].map((answer) => answer.decode_ms.toFixed(1)).join(" instead of ");
  const cost = `${fast.target_calls} target calls instead of ${slow.target_calls}, decoded in ${decoded} ms.`;
  const at = `at rank ${differing.map((rank) => rank + 1).join(", ")}`;
  if (fast.catalog_version !== slow.catalog_version) {
    judge("", "Not comparable:", "the catalog changed between the two answers. Ask again.");
  } else if (!ranks.length) {
    judge("", "Nothing to compare:", "no item passes the filter.");
  } else if (!differing.length) {
    const gap = Math.max(0, ...ours.map((each, rank) => Math.abs(each.score - theirs[rank].score)));
    const scores = gap ? `scores within ${gap.toExponential(0).replace("-", "−")}` : "equal scores";
    judge("good", "Identical answers,", `${scores}. ${cost}`);
  } else if (fast.verification === "strict") {
    judge("bad", `The answers differ ${at}.`, `Strict verification allows that only where scores all but tie. ${cost}`);
  } else {
    judge("", `The answers differ ${at},`, `as ${fast.verification} verification allows. ${cost}`);
  }
}

let busy = false;

async function recommend() {
  const request = asked();
  $("request-problem").textContent = "";
  judge("", "Recommending…", "");
  $("answers").hidden = false;
  plain.hidden = request.history.length === 0;
  for (const card of [speculative, plain]) fill(card, null, request.k);
  try {
    // one after the other: side by side they would wait for each other
    const fast = await answerOf(request);
    fill(speculative, fast, request.k);
    if (fast.source === "popularity") {
      judge("", "Popular items,", "because the history is empty. No model was called; scores are log-shares of interactions.");
      return;
    }
    const slow = await answerOf({ ...request, speculation: false, seed: fast.seed });
    fill(plain, slow, request.k);
    compare(fast, slow);
  } catch (error) {
    $("answers").hidden = true;
    judge("", "No answer.", "");
    report(error, $("request-problem"));
  }
}

$("request").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (busy) return;
  busy = true;
  $("recommend").ariaDisabled = "true"; // not disabled, which would take the focus away
  await recommend().finally(() => (busy = false));
  $("recommend").ariaDisabled = "false";
});

start();
