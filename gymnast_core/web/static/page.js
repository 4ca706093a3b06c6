"use strict";
// Live parts: whenever the server's version changes, fetch this page again and replace what differs.
const link = document.getElementById("link");
const said = document.getElementById("said");
const server = document.body.dataset.server;
let shown = document.body.dataset.version;
let busy = false, again = false, saidAt = Date.now();

function say(text, wrong) {
  said.textContent = text;
  said.classList.toggle("wrong", Boolean(wrong));
  said.hidden = !text;
  saidAt = Date.now();
}

function banner(text) {
  link.innerHTML = "";
  link.append(text);
  link.hidden = !text;
}

function editing(part) {
  const field = document.activeElement;
  return part.contains(field) && field.matches("input:not([type=range]), select, textarea") ||
    [...part.querySelectorAll("input:not([type=hidden]):not([type=range]):not([type=radio])")].some((input) => input.value !== input.defaultValue);
}

// What has the keyboard keeps it when its part is drawn anew: the same control is found again by what it does.
const doing = (control) => [control.tagName, control.name, control.value, control.getAttribute("href"),
  control.getAttribute("formaction") || control.form?.getAttribute("action"),
  control.matches("button, summary") ? control.textContent.trim() : ""].join("|");

function draw(part, html) {
  const held = part.contains(document.activeElement) ? doing(document.activeElement) : null;
  const open = [...part.querySelectorAll("details")].map((details) => details.open);
  part.innerHTML = html;
  part.querySelectorAll("details").forEach((details, index) => { details.open = open[index] ?? details.open; });
  if (held === null) return;
  const same = [...part.querySelectorAll("a, button, input, select, textarea, summary")].find((control) => doing(control) === held);
  (same || document.getElementById("main")).focus({ preventScroll: true });
}

async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected && new URL(answer.url).pathname === "/login") {
      banner("You are logged out. What is on this page may be old. ");
      link.append(Object.assign(document.createElement("a"), { href: answer.url, textContent: "Log in again" }));
      source?.close();
      return;
    }
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (!next || next.innerHTML === part.dataset.seen || part.innerHTML === next.innerHTML) continue;
      const moved = [...next.querySelectorAll("form")].map((form) => form.action).join() !== [...part.querySelectorAll("form")].map((form) => form.action).join();
      if (editing(part) && !moved) {
        for (const name of ["revision"]) {
          part.querySelectorAll(`input[name=${name}]`).forEach((input, index) => { input.value = next.querySelectorAll(`input[name=${name}]`)[index]?.value ?? input.value; });
        }
        continue;
      }
      const seen = next.innerHTML;
      draw(part, seen);
      if (part.id === "now" && Date.now() - saidAt > 1200 && !said.classList.contains("wrong")) said.hidden = true;
      part.dataset.seen = seen;
      films(part);
      stack(part);
    }
    const scene = fresh.querySelector(".scene");
    if (scene && !document.querySelector(".scene")) document.getElementById("previewbox")?.before(scene);
  } catch { /* the server is away; the event source says so and comes back */ } finally {
    busy = false;
    if (again) { again = false; setTimeout(refresh, 300); }
  }
}

let source = null, lost = null;
if (shown !== undefined) {
  source = new EventSource("/events?at=" + encodeURIComponent(location.pathname));
  source.onmessage = (event) => {
    clearTimeout(lost); lost = null;
    if (!link.querySelector("a")) banner("");
    if (event.data !== shown) { shown = event.data; refresh(); }
  };
  source.onerror = () => {
    lost ??= setTimeout(() => banner(`No connection to the ${server}. This page shows what was last known and goes on by itself.`), 1500);
    if (source.readyState === EventSource.CLOSED) { refresh(); setTimeout(() => location.reload(), 5000); }
  };
}

// Forms: sent once, answered in place.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post" || form.matches("[data-plain], .who")) return;
  event.preventDefault();
  if (form.dataset.sending || (form.dataset.confirm && !confirm(form.dataset.confirm))) return;
  form.dataset.sending = "yes";
  const button = event.submitter;
  try {
    const answer = await fetch(button?.getAttribute("formaction") || form.getAttribute("action"), { method: "POST", body: new FormData(form, button), headers: { Accept: "application/json" } });
    const told = await answer.json();
    if (answer.status === 401) {
      say(told.error, true);
      said.append(" ", Object.assign(document.createElement("a"), { href: "/login?next=" + encodeURIComponent(location.pathname), textContent: "Log in again" }));
    } else if (!answer.ok) {
      say(told.error, true);
    } else if (told.go && told.go !== location.pathname) {
      location.assign(told.go);
      return;
    } else {
      say(told.said);
      form.querySelectorAll("input").forEach((input) => { input.defaultValue = input.value; });
    }
  } catch {
    say(`The ${server} did not answer. Whether this was done is unknown; the page will show it when the ${server} is back.`, true);
    return;
  } finally {
    delete form.dataset.sending; // whoever reads the answer may ask for the next thing before the page is drawn anew
  }
  await refresh();
});

// Tables that a phone would have to scroll sideways become one block a row, each number beside its column's name.
const narrow = matchMedia("(max-width: 760px)");
function stack(root) {
  for (const table of root.querySelectorAll(".scroll > table")) {
    table.classList.remove("stacked");
    if (!narrow.matches || table.scrollWidth <= table.parentElement.clientWidth) continue;
    const names = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr, tfoot tr")) {
      let column = 0;
      for (const cell of row.cells) {
        if (names[column]) cell.dataset.label = names[column];
        column += cell.colSpan;
      }
    }
    table.classList.add("stacked");
  }
}
stack(document);
addEventListener("resize", () => stack(document));

// Films: strips of frames, played side by side and in step.
function films(root) {
  for (const group of root.querySelectorAll(".films:not([data-ready])")) {
    group.dataset.ready = "yes";
    const players = [...group.querySelectorAll(".player")];
    const [button, slider, output] = ["[data-play]", "input[type=range]", "output"].map((name) => group.querySelector(name));
    let frame = 0, frames = 1, timer = null;
    const strips = players.map((player) => Object.assign(new Image(), { src: player.dataset.src }));
    const draw = () => {
      players.forEach((player, index) => {
        const canvas = player.querySelector("canvas"), strip = strips[index];
        const count = Number(player.dataset.frames) || Math.round(strip.naturalWidth / strip.naturalHeight);
        const width = strip.naturalWidth / Math.max(1, Math.min(count, 60));
        if (!width) return;
        canvas.width = width; canvas.height = strip.naturalHeight;
        canvas.getContext("2d").drawImage(strip, -Math.min(frame, Math.min(count, 60) - 1) * width, 0);
        frames = Math.max(frames, Math.min(count, 60));
      });
      slider.max = frames - 1; slider.value = frame; output.value = `${frame + 1} of ${frames}`;
    };
    const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
    const play = () => { button.textContent = "Pause"; timer = setInterval(() => { if (!group.isConnected) return stop(); frame = (frame + 1) % frames; draw(); }, frames > 8 ? 160 : 450); };
    button.addEventListener("click", () => (timer ? stop() : play()));
    slider.addEventListener("input", () => { stop(); frame = Number(slider.value); draw(); });
    const begin = () => { draw(); if ("autoplay" in group.dataset && !timer && strips.every((strip) => strip.complete) && !matchMedia("(prefers-reduced-motion: reduce)").matches) play(); };
    strips.forEach((strip) => strip.decode().then(begin, () => { output.value = "no film"; }));
  }
}
films(document);

// Keys that stand beside what they do. Space is taken from the buttons that label: after one was clicked it would label again.
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=range]), select, textarea")) return;
  if (event.key === " " && event.target.closest("[data-play], summary")) return;
  const control = document.querySelector(`[data-key="${event.key === " " ? "n" : CSS.escape(event.key.toLowerCase())}"]`);
  if (!control) return;
  event.preventDefault();
  control.click();
});

// A queue stays where it is while others arrive.
const pinned = document.querySelector("[data-pin]");
if (pinned) history.replaceState(null, "", pinned.dataset.pin);

document.querySelector("[data-back]")?.addEventListener("click", (event) => { event.preventDefault(); history.back(); });
