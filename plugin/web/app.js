// The page: asks the API of the node that has served it, with the token of whoever looks, and shows what it says. Text that
// comes from there is only ever put into text nodes.
"use strict";

const $ = (id) => document.getElementById(id);
const TOKEN = "bulkhead-token";
const LOOK = 2000;
const KEPT = 90;
let token = sessionStorage.getItem(TOKEN);
let following = null;
const io = new Map(); // volume id → looks at what it has served, oldest first
let events = [];
let shown = ""; // the address of the page that is there

/** An element with attributes and children; strings become text. */
function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

class Refused extends Error {}

async function ask(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { Authorization: `Bearer ${token}`, ...(body ? { "Content-Type": "application/json" } : {}) },
    body: body ? JSON.stringify(body) : undefined,
    signal: AbortSignal.timeout(method === "GET" ? 15000 : 120000),
  });
  const said = await answer.json().catch(() => null);
  if (answer.status === 401) {
    forget();
    throw new Refused("This token is not known here (any more).");
  }
  if (!answer.ok) throw new Refused(said?.error?.message || `The node answered ${answer.status}.`);
  return said;
}
const get = (path) => ask("GET", `/v1${path}`);

function size(bytes) {
  if (bytes == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let n = 0;
  while (bytes >= 1024 && n < units.length - 1) { bytes /= 1024; n += 1; }
  return `${bytes >= 100 || Number.isInteger(bytes) ? Math.round(bytes) : bytes.toFixed(1)} ${units[n]}`;
}
const when = (moment) => (moment ? new Date(moment).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) : "–");
/** A sentence in which commands stand between backticks. */
const words = (text) => text && text.split("`").map((part, n) => (n % 2 ? el("code", {}, part) : part));
const link = (kind, name) => el("a", { href: `#/${kind}/${encodeURIComponent(name)}` }, name);
const pill = (text, healthy, soft) => el("span", { class: `pill ${healthy ? "good" : soft ? "warn" : "bad"}` }, text);
const volumePill = (volume) => pill(volume.state, volume.healthy, volume.state === "degraded");
const card = (title, ...children) => el("section", { class: "card" }, title ? el("h2", {}, title) : null, ...children);
const list = (...pairs) => el("dl", {}, ...pairs.filter((pair) => pair[1] != null && pair[1] !== "").map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

const isEmpty = (cell) => cell == null || cell === "" || (Array.isArray(cell) && !cell.length);

function table(headings, rows, empty) {
  if (!rows.length) return el("p", { class: "soft" }, empty);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": headings.join(", ") },
    el("table", {},
      el("thead", {}, el("tr", {}, headings.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, n) => el("td", { "data-label": headings[n], class: isEmpty(cell) ? "none" : null }, el("div", {}, isEmpty(cell) ? "–" : cell))))))));
}

/** Two lines over the last looks, the newest at the right. */
function plot(title, unit, first, second) {
  const peak = Math.max(1, ...first.values, ...second.values);
  const line = (values, name) => {
    const points = values.map((value, n) => `${100 - (100 * (values.length - 1 - n)) / (KEPT - 1)},${38 - (36 * value) / peak}`);
    const polyline = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    polyline.setAttribute("class", name);
    polyline.setAttribute("points", points.join(" "));
    return polyline;
  };
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "plot");
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const now = (values) => unit(values.at(-1) ?? 0);
  svg.setAttribute("aria-label", `${title}: ${first.name} ${now(first.values)}, ${second.name} ${now(second.values)}`);
  svg.append(line(second.values, "b"), line(first.values, "a"));
  const key = (name, of) => el("span", { class: `key ${name}` }, `${of.name} ${now(of.values)}`);
  return card(title, svg, el("p", { class: "legend soft" }, key("a", first), key("b", second), el("span", {}, `top of the plot: ${unit(peak)}`)));
}

/** Rates out of the looks at a volume. */
function rates(id, of) {
  const looks = io.get(id) || [];
  return looks.slice(1).map((look, n) => {
    const span = look.at - looks[n].at;
    const more = of(look) - of(looks[n]);
    return span > 0 && more >= 0 ? more / span : 0;
  });
}

async function lookAtIo() {
  const now = await get("/io");
  for (const id of io.keys()) if (!now.some((look) => look.id === id)) io.delete(id);
  for (const look of now) {
    const looks = io.get(look.id) || [];
    looks.push(look);
    io.set(look.id, looks.slice(-KEPT));
  }
}

/** Asks whether it is meant, with a field if there is something to be said; then does it. */
function dialog(title, text, fields, button, danger, work) {
  const box = $("dialog");
  const inputs = fields.map((field) => field.options
    ? el("select", { name: field.name }, field.options.map((option) => el("option", { value: option, selected: option === field.value }, option)))
    : el("input", { name: field.name, value: field.value ?? "", placeholder: field.hint ?? "", required: field.required, autocomplete: "off" }));
  const said = el("p", { role: "alert" });
  const form = el("form", { method: "dialog" },
    el("h2", {}, title), el("p", {}, text),
    fields.map((field, n) => el("label", {}, field.label, el("br"), inputs[n])),
    said,
    el("div", { class: "row" },
      el("button", { class: danger ? "danger" : "main", value: "do" }, button),
      el("button", { type: "button", onclick: () => box.close() }, "Cancel")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    said.textContent = "…";
    try {
      await work(Object.fromEntries(inputs.map((input) => [input.name, input.value.trim()])));
      box.close();
      await show();
    } catch (error) {
      said.textContent = error.message;
    }
  });
  box.replaceChildren(form);
  box.showModal();
}

function options(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
}

const createVolume = () => dialog("Create a volume", "What is left empty the storage class or the defaults decide.", [
  { name: "name", label: "Name", required: true },
  { name: "size", label: "Size", hint: "10G" },
  { name: "repl", label: "Replicas", hint: "2" },
  { name: "class", label: "Storage class" },
  { name: "fs", label: "File system", options: ["", "ext4", "xfs", "btrfs"], value: "" },
], "Create", false, ({ name, ...rest }) => ask("POST", "/v1/volumes", { name, options: options(rest) }));

const createClass = () => dialog("Create a storage class", "Volumes that name it take what it says.", [
  { name: "name", label: "Name", required: true },
  { name: "repl", label: "Replicas", hint: "2" },
  { name: "size", label: "Size", hint: "10G" },
  { name: "fs", label: "File system", options: ["", "ext4", "xfs", "btrfs"], value: "" },
  { name: "io_priority", label: "I/O priority", options: ["", "high", "medium", "low"], value: "" },
], "Create", false, ({ name, ...rest }) => ask("POST", "/v1/classes", { name, options: options(rest) }));

const remove = (what, path, name, text) => dialog(`Delete ${what} ${name}`, text, [
  { name: "sure", label: `Write ${name} to confirm`, required: true },
], "Delete", true, async ({ sure }) => {
  if (sure !== name) throw new Refused(`That is not ${name}.`);
  await ask("DELETE", `/v1/${path}/${encodeURIComponent(name)}`);
  location.hash = `#/${path}`;
});

const pages = {
  async ""() {
    const [cluster, alerts, volumes] = await Promise.all([get("/cluster"), get("/alerts"), get("/volumes"), lookAtIo()]);
    const counts = (by) => Object.entries(by).map(([state, count]) => `${count} ${state}`).join(", ") || "none";
    const here = [...io.values()].filter((looks) => looks.length);
    return [
      el("div", { class: "cards" },
        card("Cluster", el("div", { class: "big" }, cluster.name), pill(cluster.healthy ? "healthy" : "needs attention", cluster.healthy)),
        card("Nodes", el("div", { class: "big" }, counts(cluster.nodes))),
        card("Volumes", el("div", { class: "big" }, counts(cluster.volumes))),
        card("Capacity", el("div", { class: "big" }, `${size(cluster.capacity.free)} free`), el("p", { class: "soft" }, `of ${size(cluster.capacity.capacity)}; ${size(cluster.capacity.promised)} promised`)),
        card("Store", el("div", { class: "big" }, cluster.store.reachable ? "answers" : "away"), el("p", { class: "soft" }, cluster.store.name))),
      cluster.problems.length ? card("What needs attention", el("ul", { class: "problems" }, cluster.problems.map((problem) => el("li", {}, words(problem))))) : null,
      card("Alerts", table(["Severity", "Object", "Since", "What is wrong", "What to do"],
        alerts.map((alert) => [pill(alert.severity, false, alert.severity !== "critical"), alert.object.name, when(alert.since), words(alert.cause), words(alert.remedy)]), "Nothing is wrong that is known.")),
      card("Volumes that need attention", table(["Volume", "State", "Why"],
        volumes.filter((volume) => !volume.healthy).map((volume) => [link("volumes", volume.name), volumePill(volume), words(volume.status)]), "None.")),
      here.length ? el("div", { class: "cards" }, here.map((looks) => ioPlot(looks.at(-1)))) : null,
    ];
  },
  async nodes() {
    const nodes = await get("/nodes");
    return [card("Nodes", table(["Node", "State", "Address", "Version", "Pools", "Free", "Replicas", "Attached", "Labels"],
      nodes.map((node) => [link("nodes", node.name), pill(node.state, node.healthy), node.data_address, node.version, String(node.pools.length),
        `${size(sum(node.pools, "free"))} of ${size(sum(node.pools, "capacity"))}`, String(node.replicas), String(node.attached),
        labels(node)]), "None."))];
  },
  async node(name) {
    const [node, duty] = await Promise.all([get(`/nodes/${encodeURIComponent(name)}`), get(`/nodes/${encodeURIComponent(name)}/duty`)]);
    const set = (wanted, text) => dialog(`${text}: ${node.name}`, "It is refused if something that is used, or the last of something, would be lost.", [], text, wanted === "decommissioned",
      () => ask("PUT", `/v1/nodes/${encodeURIComponent(node.name)}/duty`, { duty: wanted }));
    const offer = (wanted, text) => duty.duty === wanted ? null : el("button", { type: "button", class: wanted === "decommissioned" ? "danger" : "", onclick: () => set(wanted, text) }, text);
    return [
      card(`Node ${node.name}`, el("p", {}, pill(node.state, node.healthy), " ", node.status),
        list(["Id", node.id], ["Version", node.version], ["Replicas at", node.data_address], ["API at", node.management_address], ["Joined", when(node.joined_at)], ["Since", when(node.since)],
          ["Labels", labels(node)]),
        el("div", { class: "row" }, offer("full", "Take into full service"), offer("drained", "Drain"), offer("maintenance", "Take under maintenance"), offer("decommissioned", "Give up for good"))),
      duty.left.length ? card("Left on it", el("ul", { class: "problems" }, duty.left.map((left) => el("li", {}, words(left))))) : null,
      card("Pools", table(["Pool", "State", "Medium", "Priority", "Free", "Promised", "Replicas"],
        node.pools.map((pool) => [pool.id, pill(pool.state, pool.state === "ok"), pool.medium, pool.priority, `${size(pool.free)} of ${size(pool.capacity)}`, `${size(pool.promised)} of ${size(pool.promisable)}`, String(pool.replicas)]), "None.")),
      card("Volumes", table(["Volume", "Replica", "Attached here"], (node.volumes || []).map((volume) => [link("volumes", volume.name), volume.replica, volume.attached ? "yes" : "no"]), "None.")),
    ];
  },
  async volumes() {
    const volumes = await get("/volumes");
    return [card("Volumes", el("div", { class: "row" }, el("button", { type: "button", class: "main", onclick: createVolume }, "Create a volume")),
      table(["Volume", "State", "Size", "Replicas", "Attached on", "Used by", "Class"],
        volumes.map((volume) => [link("volumes", volume.name), volumePill(volume), size(volume.size),
          `${volume.replicas.filter((replica) => replica.healthy).length} of ${volume.repl}`, volume.attached ? link("nodes", volume.attached.node) : null, volume.attached?.user, volume.class]), "There is no volume yet."))];
  },
  async volume(name) {
    const [volume] = await Promise.all([get(`/volumes/${encodeURIComponent(name)}`), lookAtIo()]);
    const change = () => dialog(`Replicas of ${volume.name}`, "They are made and removed while it is used.", [{ name: "repl", label: "How many", value: String(volume.repl), required: true }], "Change", false,
      ({ repl }) => ask("PATCH", `/v1/volumes/${encodeURIComponent(volume.name)}`, { repl: Number(repl) }));
    const look = (io.get(volume.id) || []).at(-1);
    return [
      card(`Volume ${volume.name}`, el("p", {}, volumePill(volume), " ", volume.status),
        list(["Id", volume.id], ["Size", size(volume.size)], ["Used", volume.used == null ? null : size(volume.used)], ["File system", volume.fs], ["Class", volume.class],
          ["Attached on", volume.attached ? link("nodes", volume.attached.node) : "no node"], ["Since", volume.attached ? when(volume.attached.since) : null], ["Used by", volume.attached?.user],
          ["Wanted by", volume.wanted?.node], ["Epoch", String(volume.epoch)], ["Created", when(volume.created_at)],
          ["Labels", labels(volume)]),
        el("div", { class: "row" },
          el("button", { type: "button", onclick: change }, "Change the number of replicas"),
          el("button", { type: "button", class: "danger", onclick: () => remove("volume", "volumes", volume.name, "Its data is lost. Refused while it is in use.") }, "Delete"))),
      card("Replicas", table(["Node", "State", "Since", "Rebuild", "Trouble"],
        volume.replicas.map((replica) => [link("nodes", replica.node), pill(replica.state, replica.healthy, replica.state === "being rebuilt"), when(replica.since), rebuild(replica.rebuild), replica.trouble]), "None.")),
      look ? el("div", { class: "cards" }, ioPlot(look)) : volume.attached ? el("p", { class: "soft" }, `Live figures are shown by the page of node ${volume.attached.node}.`) : null,
    ];
  },
  async classes() {
    const classes = await get("/classes");
    const makeDefault = (name) => ask("PUT", "/v1/default-class", { class: name }).then(show, trouble);
    return [card("Storage classes", el("div", { class: "row" }, el("button", { type: "button", class: "main", onclick: createClass }, "Create a storage class")),
      table(["Class", "Default", "Replicas", "Size", "File system", "I/O priority", "Volumes", ""],
        classes.map((item) => [item.name, item.default ? "yes" : el("button", { type: "button", onclick: () => makeDefault(item.name) }, "Make default"), item.repl == null ? null : String(item.repl),
          item.size == null ? null : size(item.size), item.fs, item.io_priority, String(item.volumes),
          el("button", { type: "button", class: "danger", onclick: () => remove("storage class", "classes", item.name, "Its volumes stay as they are.") }, "Delete")]), "There is no storage class yet."))];
  },
  async events() {
    events = await get("/events");
    return [card("Events", table(["When", "Severity", "Event", "Object", "What", "What to do"],
      events.slice().reverse().map((event) => [when(event.at), pill(event.severity, event.kind === "cleared" || event.severity === "info", event.severity === "warning"),
        `${event.kind === "happened" ? "" : event.kind + " "}${event.what}`, event.object.name, words(event.cause), words(event.remedy)]), "Nothing has happened that is kept."))];
  },
  async generate() {
    const [forms, cluster] = await Promise.all([get("/generate"), get("/cluster")]);
    return [generator(forms, cluster)];
  },
};

const labels = (of) => Object.entries(of.labels).map(([key, value]) => `${key}=${value}`).join(", ");
const sum = (items, key) => items.reduce((all, item) => all + item[key], 0);

/** Flags that most clusters need; the others are below a fold. */
const USUAL = ["image", "cluster", "store", "store-user", "store-password", "store-token", "pool", "class", "default-class", "data-interface", "binary"];

/** A form with the flags of `bulkhead generate`. What is written into it goes to this node alone, in the body of a request, and is
 * kept nowhere: not in the address, nor in the browser. */
function generator(forms, cluster) {
  const written = new Map([["cluster", cluster.name]]);
  const said = el("p", { role: "alert" });
  const result = el("div", { "aria-live": "polite" });
  const fields = el("div");
  const choice = el("select", { name: "form" }, forms.map((form) => el("option", { value: form.form }, form.form)));
  const about = el("p", { class: "soft" });
  const field = (flag) => {
    const attributes = {
      name: flag.name, id: `flag-${flag.name}`, placeholder: flag.value, required: flag.required, autocomplete: "off", spellcheck: "false",
      oninput: (event) => written.set(flag.name, event.target.value),
    };
    const input = flag.repeated ? el("textarea", { ...attributes, rows: "2" }) : el("input", { ...attributes, type: flag.secret ? "password" : "text", autocomplete: flag.secret ? "new-password" : "off" });
    input.value = written.get(flag.name) ?? "";
    return el("div", { class: "flag" }, el("label", { for: input.id }, flag.name),
      input, el("div", { class: "soft" }, words(flag.help), flag.repeated ? "; one in a line" : ""));
  };
  const offer = () => {
    const form = forms.find((form) => form.form === choice.value);
    about.textContent = form.about;
    const usual = USUAL.flatMap((name) => form.flags.filter((flag) => flag.name === name));
    const rest = form.flags.filter((flag) => !usual.includes(flag));
    fields.replaceChildren(...usual.map(field), el("details", {}, el("summary", {}, `${rest.length} more settings`), rest.map(field)));
    result.replaceChildren();
    said.textContent = "";
  };
  choice.addEventListener("change", offer);
  const form = el("form", {}, el("label", { for: "form" }, "What to print"), choice, about, fields, said,
    el("div", { class: "row" }, el("button", { class: "main" }, "Show")));
  choice.id = "form";
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const flags = {};
    for (const flag of forms.find((known) => known.form === choice.value).flags) {
      const text = written.get(flag.name) ?? "";
      const values = (flag.repeated ? text.split("\n") : [text]).map((value) => value.trim()).filter((value) => value !== "");
      if (values.length) flags[flag.name] = values;
    }
    said.textContent = "…";
    result.replaceChildren();
    try {
      const made = await ask("POST", "/v1/generate", { form: choice.value, flags });
      said.textContent = "";
      result.replaceChildren(el("pre", { tabindex: "0", "aria-label": "What to run" }, made.text));
    } catch (error) {
      said.textContent = error.message;
      if (!token) show();
    }
  });
  offer();
  return card("Add nodes", el("p", {}, "What makes machines nodes of a cluster. Nothing is changed here: run what is shown on each machine, or deploy it to a Swarm."), form, result);
}

function rebuild(progress) {
  if (!progress) return null;
  const left = progress.remaining_seconds == null ? "" : `, ${Math.ceil(progress.remaining_seconds / 60)} min left`;
  return [el("progress", { max: "100", value: String(progress.percent), "aria-label": "Rebuild" }), el("div", { class: "soft" }, `${progress.percent.toFixed(0)} % at ${size(progress.speed)}/s${left}`)];
}

function ioPlot(look) {
  const bytes = { name: "written", values: rates(look.id, (at) => at.writes.bytes) };
  const read = { name: "read", values: rates(look.id, (at) => at.reads.bytes) };
  return plot(`${look.volume}, bytes in a second`, (value) => `${size(Math.round(value))}/s`, bytes, read);
}

function trouble(error) {
  const box = $("trouble");
  box.hidden = !error;
  box.textContent = error ? (error instanceof Refused ? error.message : `The node does not answer (${error.message}). What is shown may be old; it is tried again.`) : "";
}

function signIn() {
  const input = el("input", { id: "token", type: "password", autocomplete: "current-password", required: true });
  const form = el("form", {}, el("label", { for: "token" }, "Token"), input, el("div", { class: "row" }, el("button", { class: "main" }, "Sign in")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    token = input.value.trim();
    sessionStorage.setItem(TOKEN, token);
    show();
  });
  $("main").replaceChildren(card("Sign in", el("p", {}, "A token is made on a node with ", el("code", {}, "bulkhead token create NAME --role viewer"), "; with the role admin it also allows changes."), form));
  input.focus();
}

function forget() {
  token = null;
  shown = "";
  events = [];
  io.clear();
  following?.abort();
  following = null;
  sessionStorage.removeItem(TOKEN);
  $("leave").hidden = true;
}

/** Follows the events for as long as somebody looks. */
async function follow() {
  if (following || !token) return;
  const mine = (following = new AbortController());
  try {
    const answer = await fetch("/v1/events/stream", { headers: { Authorization: `Bearer ${token}` }, signal: mine.signal });
    if (!answer.ok) throw new Error(String(answer.status));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      text += value;
      const lines = text.split("\n");
      text = lines.pop();
      for (const line of lines.filter((line) => line.startsWith("data:"))) {
        const event = JSON.parse(line.slice(5));
        if (!events.some((known) => known.id === event.id) && !$("dialog").open) show();
      }
    }
  } catch {
    // The next look tries again, and says if the node does not answer.
  }
  if (following === mine) following = null;
}

let busy = false;
let again = false;
async function show() {
  if (!token) { signIn(); return; }
  if (busy) return;
  // A form is not drawn anew while somebody fills it in.
  if (shown === location.hash && shown === "#/generate") return;
  busy = true;
  const [page, name] = location.hash.replace(/^#\//, "").split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  const which = name ? (page || "").replace(/s$/, "") : page || "";
  try {
    const parts = await (pages[which] || pages[""])(name);
    trouble(null);
    const main = $("main");
    // What somebody reads or types stays where it is.
    const at = document.activeElement?.closest?.("main") ? [...main.querySelectorAll("a, button, [tabindex]")].indexOf(document.activeElement) : -1;
    main.replaceChildren(...parts.filter(Boolean));
    if (shown !== location.hash) { shown = location.hash; scrollTo(0, 0); }
    else if (at >= 0) [...main.querySelectorAll("a, button, [tabindex]")][at]?.focus({ preventScroll: true });
    document.querySelectorAll("nav a").forEach((item) => item.hash === `#/${page || ""}` ? item.setAttribute("aria-current", "page") : item.removeAttribute("aria-current"));
    $("leave").hidden = false;
    follow();
  } catch (error) {
    trouble(error);
    if (!token) signIn();
  } finally {
    busy = false;
    // Somebody has gone to another page meanwhile.
    if (again) { again = false; show(); }
  }
}

$("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("bulkhead-theme", document.documentElement.dataset.theme);
});
const theme = localStorage.getItem("bulkhead-theme");
if (theme) document.documentElement.dataset.theme = theme;
$("leave").addEventListener("click", () => { forget(); trouble(null); show(); });
addEventListener("hashchange", () => { again = busy; show(); });
setInterval(() => { if (token && !document.hidden && !$("dialog").open) show(); }, LOOK);
$("where").textContent = location.hostname;
show();
