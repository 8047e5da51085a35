// The console's one script. Pages can be read without it; with it, forms and buttons with `data-api` call the JSON API,
// parts with `data-live` stay fresh, and accounts are connected in a popup. src/console/mod.rs says what pages may use.

const root = document.body.dataset;
const base = root.base ?? "";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

/* --- calling the API --------------------------------------------------------------------------------------------- */

/** A refusal, as the API explains it. */
class Problem extends Error {
  constructor(status, body) {
    super(body.title ?? `The gateway answered ${status}`);
    this.status = status;
    this.body = body;
  }

  /** What else there is to say, each in a sentence. */
  get more() {
    const { detail, fields, keys, requestId, error } = this.body;
    const said = [];
    if (detail) said.push(detail);
    if (fields) said.push(`Look at: ${fields.join(", ")}.`);
    if (keys) said.push(`Unknown: ${keys.join(", ")}.`);
    if (error) said.push(`(${error}${this.status >= 500 && requestId ? `, request ${requestId}` : ""})`);
    return said;
  }
}

/** What went wrong, as sentences. */
const inSentences = (problem) =>
  [problem.message, ...(problem.more ?? [])].map((said) => (/[.!?…)]$/.test(said) ? said : `${said}.`)).join(" ");

/** An address within what this page shows: its org or, said expressly, all of them. Another window may have chosen
 *  another org meanwhile. */
function ours(path) {
  const address = new URL(path, location.origin);
  address.searchParams.set("org", root.org ?? "");
  return address;
}

/** Calls the API as this page's visitor; answers what it said, or throws a Problem. */
async function api(method, path, body) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(ours(base + path), { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem(0, { title: "The gateway cannot be reached", detail: "Look at your connection and try again." });
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  if (answer.status === 401 && said.error === "unauthorized") location.reload();
  throw new Problem(answer.status, said);
}

/* --- forms and buttons -------------------------------------------------------------------------------------------- */

/** A field's value as JSON; undefined leaves it out. */
function valueOf(field) {
  const { type, empty } = field.dataset;
  if (field.type === "checkbox" && !field.name.endsWith("[]") && !type) return field.checked;
  if ((field.type === "checkbox" || field.type === "radio") && !field.checked) return undefined;
  const text = field.value;
  if (text.trim() === "") return empty === "null" ? null : empty === "keep" ? "" : undefined;
  if (type === "number") return Number(text);
  if (type === "json") return JSON.parse(text);
  if (type === "boolean") return text === "true";
  if (type === "time") return new Date(text).toISOString();
  if (type === "lines") return text.split("\n").map((line) => line.trim()).filter(Boolean);
  if (type === "headers") {
    const lines = text.split("\n").filter((line) => line.trim() !== "");
    const odd = lines.find((line) => !line.includes(":"));
    if (odd) throw new Error(`There is no colon in “${odd.trim()}”.`);
    return Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(":")).trim(), line.slice(line.indexOf(":") + 1).trim()]));
  }
  return text;
}

/** Puts a value where its dotted name says. */
function place(body, name, value) {
  const isList = name.endsWith("[]");
  const steps = name.replace(/\[\]$/, "").split(".");
  const last = steps.pop();
  const within = steps.reduce((at, step) => (at[step] ??= {}), body);
  if (!isList) within[last] = value;
  else (within[last] ??= []).push(value);
}

/** Method, path and body of what an element with `data-api` asks for. */
function requestOf(element, submitter) {
  const [method, template] = (submitter?.dataset.api ?? element.dataset.api).split(" ");
  const body = JSON.parse(submitter?.dataset.body ?? element.dataset.body ?? "{}");
  if (element.tagName === "FORM") {
    const named = [...element.elements].filter((field) => field.name && !field.disabled && field.type !== "submit");
    for (const field of named) {
      if (field.name.endsWith("[]") && field.dataset.empty === "keep") place(body, field.name, undefined);
      const value = valueOf(field);
      if (value !== undefined) place(body, field.name, value);
    }
    for (const name of Object.keys(body)) if (Array.isArray(body[name])) body[name] = body[name].filter((value) => value !== undefined);
  }
  const path = template.replace(/\{(\w+)\}/g, (_, name) => {
    const value = body[name] ?? "";
    delete body[name];
    return encodeURIComponent(value);
  });
  const isBare = method === "GET" || method === "DELETE" || (Object.keys(body).length === 0 && element.tagName !== "FORM");
  return { method, path, body: isBare ? undefined : body };
}

/** Asks in a dialog; true for yes. */
function confirmed(text, verb = "Go on", isDanger = true) {
  const dialog = document.querySelector("[data-confirm-dialog]");
  dialog.querySelector("[data-confirm-text]").textContent = text;
  const yes = dialog.querySelector("[data-confirm-yes]");
  yes.textContent = verb;
  yes.classList.toggle("danger", isDanger);
  yes.classList.toggle("primary", !isDanger);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

const lookUp = (said, path) => path.split(".").reduce((at, step) => at?.[step], said);

/** What came of it: reload, go elsewhere, show it, or stay. */
function goOn(element, said, report) {
  let { then = "reload" } = element.dataset;
  const dialog = then.startsWith("show:") ? document.getElementById(then.slice(5)) : null;
  const { onlyWith } = dialog?.dataset ?? {};
  if (onlyWith && lookUp(said, onlyWith) === undefined) then = "reload";
  // An answer that says how it went may have words of its own.
  const done = element.getAttribute(`data-done-${said.status}`) ?? element.dataset.done;
  const message = done?.replace(/\{([\w.]+)\}/g, (_, name) => grouped(lookUp(said, name) ?? 0));
  element.dispatchEvent(new CustomEvent("api:done", { bubbles: true, detail: said }));
  if (report?.place) {
    report.end(message);
    element.closest("form").reset();
    count();
    refresh();
  } else if (then.startsWith("show:")) {
    for (const shown of all("[data-show]", dialog)) {
      const value = lookUp(said, shown.dataset.show);
      shown.textContent = typeof value === "object" && value !== null ? JSON.stringify(value, null, 2) : (value ?? "–");
    }
    for (const part of all("[data-if]", dialog)) part.hidden = !lookUp(said, part.dataset.if);
    for (const part of all("[data-unless]", dialog)) part.hidden = Boolean(lookUp(said, part.dataset.unless));
    for (const copy of all("[data-copy-show]", dialog)) copy.dataset.copy = lookUp(said, copy.dataset.copyShow) ?? "";
    element.closest("dialog")?.close();
    dialog.showModal();
    dialog.addEventListener("close", () => dialog.hasAttribute("data-stay") || location.reload(), { once: true });
  } else if (then === "stay") {
    element.closest("dialog")?.close();
    if (message) toast(message);
    refresh();
  } else {
    if (message) sessionStorage.setItem("toast", message);
    if (then === "reload") location.reload();
    else location.assign(base + then.replace(/\{([\w.]+)\}/g, (_, name) => encodeURIComponent(lookUp(said, name) ?? "")));
  }
}

/** Where problems with an element are told: in its form, or as a message of the page. */
function tell(element, problem) {
  const place = element.tagName === "FORM" ? element : element.closest("form[data-api], dialog");
  place?.querySelector(":scope .problem[data-told]")?.remove();
  const said = document.createElement("p");
  said.className = "problem";
  said.dataset.told = "";
  said.setAttribute("role", "alert");
  said.append(problem.message);
  for (const sentence of problem.more ?? []) {
    const more = document.createElement("span");
    more.className = "more";
    more.textContent = sentence;
    said.append(more);
  }
  if (!place) return toast(inSentences(problem), true);
  const actions = [...place.querySelectorAll(":scope .actions")].pop();
  if (actions) actions.before(said);
  else place.append(said);
  for (const name of problem.body?.fields ?? []) {
    const field = place.querySelector(`[name="${CSS.escape(name)}"]`);
    field?.setAttribute("aria-invalid", "true");
    field?.addEventListener("input", () => field.removeAttribute("aria-invalid"), { once: true });
  }
}

/* --- a long list, portion by portion -------------------------------------------------------------------------------- */

/** Why one of many was not done, by the word of its result. */
const LEFT_OUT = {
  not_found: "is not stored any more",
  not_retryable: "is on its way already, or was delivered",
  failed: "could not be written down: try again",
};
/** Those that are named; of more there is the number. */
const NAMED = 20;

const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");

/** How many there are: exactly, or at least. */
const inWords = ({ count, more }) => (more ? `at least ${grouped(count)}` : grouped(count));

/** The ids of everything a search finds. A page of it may be empty and not the last. */
async function* found(search, size) {
  let cursor = "";
  do {
    const page = await api("GET", `${search}&limit=${size}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    if (page.items.length > 0) yield page.items.map(({ id }) => id);
    cursor = page.nextCursor;
  } while (cursor);
}

function* slices(list, size) {
  for (let at = 0; at < list.length; at += size) yield list.slice(at, at + size);
}

/** What several answers say together: numbers added up, lists one after the other and counted. */
function together(whole, said) {
  for (const [member, value] of Object.entries(said)) {
    if (Array.isArray(value)) whole[member] = [...(whole[member] ?? []), ...value];
    else whole[member] = typeof value === "number" ? (whole[member] ?? 0) + value : value;
    if (Array.isArray(value)) whole[`${member}Count`] = whole[member].length;
  }
  return whole;
}

/** Sends a long list in portions: what a form holds, or all that a search finds. The report hears how far it is. */
async function inPortions({ method, path, body }, { chunk, every }, report) {
  const [name, size] = chunk.split(":");
  const portions = every ? found(every, size) : slices(body[name] ?? [], Number(size));
  let whole = {};
  let done = 0;
  try {
    report.show(done, whole);
    for await (const portion of portions) {
      if (report.isStopped) {
        report.cause = ["Stopped."];
        break;
      }
      whole = together(whole, await api(method, path, { ...body, [name]: portion }));
      done += portion.length;
      report.show(done, whole);
    }
  } catch (problem) {
    if (!report.place) throw problem;
    // What was done stays done, and is told with the rest.
    report.cause = [inSentences(problem)];
  } finally {
    report.bar.remove();
  }
  return whole;
}

/** Shows how far something long is: a bar, and where there is a place for it also in words, with what was left out and a
 *  way to stop it. */
class Report {
  /** Whether somebody wants it to stop. */
  isStopped = false;
  /** Why it ended early, in sentences. */
  cause = [];
  bar = document.createElement("progress");

  constructor(element, place, total) {
    this.total = total;
    this.place = place;
    this.bar.setAttribute("aria-label", "Progress");
    (place ?? element).querySelector("[data-progress]").append(this.bar);
    if (!place) return;
    place.hidden = false;
    for (const part of all("[data-meanwhile]", place)) part.hidden = false;
    const stop = place.querySelector("[data-stop]");
    stop.disabled = false;
    stop.onclick = () => (this.isStopped = stop.disabled = true);
    stop.focus();
  }

  say(text) {
    this.place.querySelector("[role=status]").textContent = text;
  }

  show(done, { results = [] }) {
    const count = Math.max(this.total.count, done);
    this.bar.max = count || 1;
    this.bar.value = done;
    if (!this.place) return;
    this.say(`${grouped(done)} of ${inWords({ ...this.total, count })}`);
    const left = results.filter(({ status }) => status in LEFT_OUT);
    const lines = left.slice(0, NAMED).map(({ id, status }) => {
      const line = document.createElement("li");
      const link = document.createElement("a");
      link.href = `${base}/console/events?search=${encodeURIComponent(id)}`;
      link.textContent = id;
      line.append(link, ` ${LEFT_OUT[status]}`);
      return line;
    });
    if (left.length > NAMED) {
      lines.push(Object.assign(document.createElement("li"), { textContent: `and ${grouped(left.length - NAMED)} more` }));
    }
    this.place.querySelector("[data-left-out]").replaceChildren(...lines);
  }

  /** Says how it ended, and with it what became of what was done. */
  end(message) {
    this.say([...this.cause, message, this.cause.length > 0 ? "The others stay here." : ""].join(" "));
    for (const part of all("[data-meanwhile]", this.place)) part.hidden = true;
    this.place.focus();
  }
}

async function run(element, submitter) {
  const button = submitter ?? element;
  if (button.getAttribute("aria-busy") === "true") return;
  const settings = { ...element.dataset, ...submitter?.dataset };
  let request;
  try {
    request = requestOf(element, submitter);
  } catch (error) {
    return tell(element, new Problem(0, { title: "A field cannot be read", detail: error.message }));
  }
  let said;
  let report;
  button.setAttribute("aria-busy", "true");
  try {
    const { every, chunk } = settings;
    const total = every ? await api("GET", every.replace("?", "/count?")) : { count: checkedOf(element).length };
    if (every && total.count === 0 && !total.more) throw new Problem(0, { title: "There is none any more" });
    if (settings.confirm) {
      const text = settings.confirm.replace(/\{count\}/g, inWords(total));
      if (!(await confirmed(text, settings.confirmVerb, settings.tone !== "calm"))) return;
    }
    if (chunk) report = new Report(element, settings.report ? document.querySelector(settings.report) : null, total);
    said = chunk ? await inPortions(request, settings, report) : await api(request.method, request.path, request.body);
    element.querySelector?.(":scope .problem[data-told]")?.remove();
  } catch (problem) {
    return tell(element, problem);
  } finally {
    button.removeAttribute("aria-busy");
  }
  goOn(submitter?.dataset.then || submitter?.dataset.done ? submitter : element, said, report);
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-api]")) return;
  event.preventDefault();
  run(event.target, event.submitter);
});

/* --- messages ----------------------------------------------------------------------------------------------------- */

function toast(text, isBad = false) {
  const shown = document.createElement("div");
  shown.className = `toast ${isBad ? "bad" : ""}`;
  const words = document.createElement("div");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  close.addEventListener("click", () => shown.remove());
  shown.append(words, close);
  document.querySelector("[data-toasts]").append(shown);
  if (!isBad) setTimeout(() => shown.remove(), 6000);
}

const kept = sessionStorage.getItem("toast");
if (kept) {
  sessionStorage.removeItem("toast");
  toast(kept);
}

/* --- what a click means ------------------------------------------------------------------------------------------- */

const checkedOf = (form) => all("input[type=checkbox][name$='[]']:checked", form);

/** The boxes that a box checks all of: those of its form, or of whatever `data-within` names. */
const boxesOf = (all_) => all(`input[name="${CSS.escape(all_.dataset.checkAll)}"]`, all_.closest(all_.dataset.within ?? "form") ?? document);

function count() {
  for (const whole of all("[data-check-all]")) {
    const boxes = boxesOf(whole);
    const checked = boxes.filter((box) => box.checked).length;
    whole.checked = boxes.length > 0 && checked === boxes.length;
    whole.indeterminate = checked > 0 && checked < boxes.length;
  }
  for (const shown of all("[data-count]")) {
    const boxes = all(`input[name="${CSS.escape(shown.dataset.count)}"]:checked`, shown.closest("form") ?? document);
    shown.textContent = boxes.length;
  }
  for (const button of all("[data-needs]")) {
    const boxes = all(`input[name="${CSS.escape(button.dataset.needs)}"]:checked`, button.closest("form") ?? document);
    button.disabled = boxes.length === 0;
  }
}

document.addEventListener("change", ({ target }) => {
  if (target.dataset.checkAll) {
    const boxes = boxesOf(target);
    for (const box of boxes) if (!box.disabled && !box.closest("[hidden]")) box.checked = target.checked;
  }
  if (target.closest("form[data-auto]")) target.form.requestSubmit();
  if (target.dataset.change !== undefined && target.form?.dataset.api) target.form.requestSubmit();
  count();
});

document.addEventListener("click", async (event) => {
  const on = (selector) => event.target.closest(selector);
  const copy = on("[data-copy]");
  if (copy) {
    await navigator.clipboard?.writeText(copy.dataset.copy);
    copy.classList.add("copied");
    setTimeout(() => copy.classList.remove("copied"), 1500);
  }
  const opener = on("[data-dialog]");
  if (opener) {
    const dialog = document.getElementById(opener.dataset.dialog);
    dialog.showModal();
    for (const picker of all("[data-picker]", dialog)) fill(picker);
  }
  if (on("[data-close]")) on("dialog").close();
  const button = on("button[data-api]");
  if (button && !(button.type === "submit" && button.form?.dataset.api)) {
    event.preventDefault();
    run(button);
  }
  const connector = on("[data-connect]");
  if (connector) connect(connector);
  for (const menu of all("details[data-menu][open]")) if (!menu.contains(event.target)) menu.open = false;
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const menu of all("details[data-menu][open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  }
  const isTyping = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    const search = document.querySelector("input[type=search]");
    if (search) {
      event.preventDefault();
      search.focus();
    }
  }
});

document.addEventListener("input", ({ target }) => {
  if (!target.dataset.filter) return;
  const words = target.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of all(`${target.dataset.filter} [data-text]`)) {
    row.hidden = !words.every((word) => row.dataset.text.toLowerCase().includes(word));
    if (!row.hidden) shown += 1;
  }
  for (const none of all(`${target.dataset.filter} [data-none]`)) none.hidden = shown > 0;
});

// Filters that say nothing make no noise in the address.
document.addEventListener("submit", ({ target }) => {
  if (target.method !== "get" || target.dataset.api || target.classList.contains("pop")) return;
  for (const field of target.elements) if (field.name && field.value === "") field.disabled = true;
  setTimeout(() => all("[name]:disabled", target).forEach((field) => (field.disabled = false)));
});

/* --- picking from what a provider lists ----------------------------------------------------------------------------- */

/** Fills a picker with every page the provider has. */
async function fill(picker) {
  const list = picker.querySelector(".picker");
  const state = picker.querySelector("[data-picker-state]");
  if (list.childElementCount > 0 || picker.ariaBusy === "true") return;
  picker.ariaBusy = "true";
  let cursor = "";
  let listed = 0;
  try {
    do {
      state.textContent = `Asking the provider… ${listed || ""}`;
      const page = await api("GET", picker.dataset.picker + (cursor && `?cursor=${encodeURIComponent(cursor)}`));
      for (const item of page.items) list.append(choiceOf(item));
      listed += page.items.length;
      cursor = page.nextCursor;
    } while (cursor);
    state.textContent = listed === 0 ? "The provider lists nothing for this account." : `${listed} are listed.`;
  } catch (problem) {
    state.textContent = inSentences(problem);
  } finally {
    picker.ariaBusy = "false";
  }
}

/** One thing to pick. */
function choiceOf(item) {
  const { providerResourceId, fullName, slug, private: isPrivate, archived } = item;
  const name = fullName ?? item.name;
  const label = document.createElement("label");
  label.className = "check";
  label.dataset.text = `${name} ${slug ?? ""} ${providerResourceId}`;
  const box = document.createElement("input");
  Object.assign(box, { type: "checkbox", name: "resources[]" });
  box.dataset.type = "json";
  box.value = JSON.stringify({ providerResourceId, name, slug, private: isPrivate, archived });
  label.append(box, name);
  for (const word of [item.linked && "linked", archived && "archived", isPrivate && "private"].filter(Boolean)) {
    const badge = document.createElement("span");
    badge.className = "badge";
    badge.textContent = word;
    label.append(badge);
  }
  return label;
}

/* --- times -------------------------------------------------------------------------------------------------------- */

function relative(at) {
  const seconds = Math.trunc((Date.now() - at) / 1000);
  const size = Math.abs(seconds);
  if (size < 5) return "just now";
  const [count, unit] =
    size < 60 ? [size, "s"] : size < 3600 ? [size / 60, "min"] : size < 86400 ? [size / 3600, "h"] : [size / 86400, "d"];
  const text = `${Math.trunc(count)} ${unit}`;
  return seconds > 0 ? `${text} ago` : `in ${text}`;
}

function tick() {
  for (const time of all("time[datetime]:not([data-clock])")) {
    const text = relative(Date.parse(time.dateTime));
    if (time.textContent !== text) time.textContent = text;
  }
}

/* --- staying fresh ------------------------------------------------------------------------------------------------ */

const live = () => all("[data-live]");
let refreshing = false;

/** Whether somebody is busy in there. */
const isBusy = (part) =>
  part.contains(document.activeElement) && document.activeElement.matches("input, select, textarea, [aria-busy]")
  || part.querySelector("details[open], dialog[open], [aria-busy='true'], input:checked:not([data-calm])") !== null;

async function refresh() {
  if (refreshing || document.hidden || live().length === 0) return;
  refreshing = true;
  try {
    const address = ours(location.href);
    address.searchParams.set("fragment", "1");
    const answer = await fetch(address, { headers: { accept: "text/html" } });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of live()) {
      const fresh = page.getElementById(part.id);
      if (!fresh || isBusy(part)) continue;
      const known = new Set(all("[data-key]", part).map((row) => row.dataset.key));
      const focused = part.contains(document.activeElement) ? pathTo(document.activeElement, part) : null;
      settle(fresh);
      if (part.innerHTML === fresh.innerHTML) continue;
      part.innerHTML = fresh.innerHTML;
      if (known.size > 0) for (const row of all("[data-key]", part)) row.classList.toggle("fresh", !known.has(row.dataset.key));
      if (focused) focused.reduce((at, index) => at?.children[index], part)?.focus({ preventScroll: true });
      dress(part);
    }
  } catch {
    // The next turn tries again.
  } finally {
    refreshing = false;
  }
}

function pathTo(element, part) {
  const steps = [];
  for (let at = element; at !== part; at = at.parentElement) steps.unshift([...at.parentElement.children].indexOf(at));
  return steps;
}

/** What the script adds to a part, added before it is compared. */
function settle(part) {
  for (const copy of all(".copy[hidden]", part)) copy.hidden = false;
  for (const time of all("time[datetime]:not([data-clock])", part)) time.textContent = relative(Date.parse(time.dateTime));
  for (const shown of all("[data-script]", part)) shown.hidden = false;
}

function dress(part) {
  settle(part);
  count();
}

/** How long to wait before following is tried again that was refused. */
const TRY_AGAIN_MS = 10_000;

/** Follows the org's events while somebody looks; each is a reason to look again. A browser has six connections to a host,
 *  for all its tabs: those in the background leave them to the others. */
function follow() {
  if (!root.org || live().length === 0) return;
  let stream;
  let again;
  let waiting;
  const say = (text, isOn = false) => {
    for (const part of all("[data-stream]")) {
      part.classList.toggle("on", isOn);
      part.textContent = text;
    }
  };
  const close = () => {
    clearTimeout(again);
    stream?.close();
  };
  const open = () => {
    stream = new EventSource(ours(`${base}/events/stream`));
    stream.addEventListener("open", () => say("Live", true));
    stream.addEventListener("error", () => {
      if (stream.readyState !== EventSource.CLOSED) return say("Reconnecting…");
      // It was refused, and would not try again by itself.
      say("Not live");
      again = setTimeout(open, TRY_AGAIN_MS);
    });
    stream.addEventListener("message", () => {
      if (all("[data-live][data-quiet]").length > 0) return;
      waiting ??= setTimeout(() => {
        waiting = undefined;
        refresh();
      }, 800);
    });
  };
  const turn = () => {
    close();
    if (!document.hidden) open();
  };
  document.addEventListener("visibilitychange", turn);
  addEventListener("pagehide", close);
  turn();
}

/* --- connecting in a popup ----------------------------------------------------------------------------------------- */

/** The outcomes of connecting, in words. */
const OUTCOMES = {
  access_denied: "The request was declined at the provider.",
  missing_code: "The provider sent the browser back without its code.",
  installation_already_bound: "Another org has connected this account. It has to disconnect it first.",
  installation_not_verified: "The provider does not show that you may manage this account.",
};

async function connect(button) {
  const provider = button.dataset.connect;
  const name = button.dataset.name ?? provider;
  const outcome = document.querySelector(button.dataset.outcome ?? "[data-connect-outcome]");
  const say = (tone, text, isBusy = false) => {
    outcome.hidden = false;
    outcome.className = `card notice ${tone}`;
    outcome.textContent = text;
    outcome.dataset.status = tone;
    outcome.setAttribute("aria-busy", String(isBusy));
  };
  // At once, while the click still counts as the reason for it.
  const popup = open("about:blank", "signalbox-connect", "popup,width=720,height=800");
  if (!popup) return say("bad", "The browser kept the window from opening. Allow popups for this page and try again.");
  const menu = button.closest("details[data-menu]");
  if (menu) menu.open = false;
  button.setAttribute("aria-busy", "true");
  try {
    say("info", `Finish in the window of ${name}…`, true);
    const begun = await api("GET", `/connections/${provider}/authorize?redirect_to=inline`);
    popup.location.replace(begun.url);
    const ended = await endOf(begun.state, popup);
    if (ended.status === "completed") {
      const words = ended.reactivated ? "is connected again" : "is connected";
      say("good", `${name} ${words}.`);
      sessionStorage.setItem("toast", `${name} ${words}.`);
      location.assign(`${base}/console/connections/${encodeURIComponent(ended.connectionId)}`);
    } else if (ended.status === "pending") {
      say("warn", `Waiting for approval: an owner of the ${name} account has to approve the request there. Then connect once more.`);
    } else if (ended.status === "closed") {
      say("warn", "The window was closed before it was finished. Nothing was connected.");
    } else if (ended.status === "expired") {
      say("bad", "It took longer than ten minutes. Connect again.");
    } else {
      say("bad", `${name} was not connected. ${OUTCOMES[ended.error] ?? ""} (${ended.error})`);
    }
  } catch (problem) {
    popup.close();
    say("bad", inSentences(problem));
  } finally {
    button.removeAttribute("aria-busy");
  }
}

/** Waits for the end of a flow: told by the popup's last page, or else by the gateway. */
function endOf(state, popup) {
  return new Promise((resolve) => {
    let closedAt;
    const done = (ended) => {
      removeEventListener("message", hear);
      clearInterval(asking);
      resolve(ended);
    };
    const hear = (event) => {
      if (event.origin !== location.origin || event.data?.type !== "signalbox:connected") return;
      popup.close();
      done(event.data);
    };
    addEventListener("message", hear);
    const asking = setInterval(async () => {
      const status = await api("GET", `/connections/oauth/status?state=${encodeURIComponent(state)}`).catch(() => null);
      if (status && (status.status !== "pending" || status.setupAction)) {
        popup.close();
        return done(status);
      }
      // A window that was closed may have been finished a moment before.
      if (popup.closed && (closedAt ??= Date.now()) + 4000 < Date.now()) done({ status: "closed" });
    }, 1500);
  });
}

/* --- beginning ------------------------------------------------------------------------------------------------------ */

// Links from elsewhere come without the session's cookie: ask again from here, and go on if there is one.
const login = document.querySelector("[data-login]");
if (login && new URLSearchParams(location.search).has("next")) {
  const answer = await fetch(`${base}/console/session`, { headers: { accept: "application/json" } }).catch(() => null);
  if (answer?.ok) location.replace(login.dataset.login);
}

// A search that found nothing so far goes on by itself, page by page, and shows how far it is.
const further = document.querySelector("[data-go-on]");
if (further) setTimeout(() => location.replace(further.href), 250);

dress(document);
setInterval(tick, 10_000);
if ("inside" in root) {
  follow();
  const seconds = Math.min(...live().map((part) => Number(part.dataset.live) || 10));
  if (Number.isFinite(seconds)) setInterval(refresh, seconds * 1000);
  document.addEventListener("visibilitychange", refresh);
  const orgs = document.querySelector("[data-orgs]");
  orgs?.addEventListener("focus", async () => {
    const known = await fetch(`${base}/orgs?org=&limit=100`).then((answer) => answer.json()).catch(() => ({}));
    orgs.list.replaceChildren(...(known.items ?? []).map((org) => new Option(org.id)));
  }, { once: true });
}
