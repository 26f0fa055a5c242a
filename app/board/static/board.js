/* What the pages do by themselves: the live list, keys, waits that grow, and forms that lose nothing. */
(() => {
  "use strict";
  // What is chosen in a filter is shown at once: a button for that is for who has no script.
  document.documentElement.classList.add("js");
  const texts = JSON.parse(document.body.dataset.texts || "{}");
  const say = (text, value) => (texts[text] || text).replace("%s", value);
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // The viewer's zone, for the times that the server writes.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const known = /(?:^|; )zone=([^;]*)/.exec(document.cookie);
  if (zone && (!known || known[1] !== zone)) {
    document.cookie = `zone=${zone}; Path=/; Max-Age=31536000; SameSite=Lax; Secure`;
  }

  // Waits are counted by the server's clock: the viewer's may be off.
  const ahead = Date.parse(document.body.dataset.now) - Date.now();
  const UNITS = [1440, 60, 1].map((minutes, at) => [minutes, say(["%s d", "%s h", "%s min"][at], "%s")]);
  const lasted = (seconds) => {
    let left = Math.max(0, Math.floor(seconds / 60));
    const parts = UNITS.map(([minutes, text]) => { const count = Math.floor(left / minutes); left -= count * minutes; return [count, text]; });
    const first = parts.findIndex(([count]) => count);
    if (first < 0) return null;
    return parts.slice(first, first + 2).filter(([count]) => count).map(([count, text]) => text.replace("%s", count)).join(" ");
  };
  const tick = () => {
    const now = Date.now() + ahead;
    for (const each of all("time[data-wait]")) {
      const seconds = (now - Date.parse(each.dateTime)) / 1000;
      const text = lasted(seconds);
      if (text && text !== each.textContent) each.textContent = text;
      const age = seconds > each.dataset.long * 3600 ? "long" : seconds > each.dataset.some * 3600 ? "some" : "";
      if (age) each.dataset.age = age;
    }
  };
  setInterval(tick, 15000);

  // Short messages.
  const toast = (text, kind = "bad") => {
    const note = document.createElement("p");
    note.className = `note ${kind}`;
    note.textContent = text;
    one("#toasts").append(note);
    setTimeout(() => note.remove(), 7000);
  };

  // How the page is joined to the server.
  let heard = Date.now(), polling = null;
  const show = (state) => {
    const label = one("#link-state");
    if (!label || label.dataset.state === state) return;
    label.dataset.state = state;
    label.textContent = say({ live: "live", polling: "polling", off: "no connection", connecting: "connecting" }[state]);
  };

  // The list. New rows wait while somebody points at it or works in it by keys.
  const waiting = new Map();
  const rows = () => one("#rows");
  const isBusy = () => {
    const list = one("#orders");
    return Boolean(list && (list.matches(":hover") || list.contains(document.activeElement) || one("tr.at", list)));
  };
  const counted = () => {
    const button = one("#show-new");
    if (!button) return;
    button.hidden = waiting.size === 0;
    button.textContent = say("New orders: %s", waiting.size);
    const title = document.title.replace(/^\(\d+\) /, "");
    document.title = waiting.size ? `(${waiting.size}) ${title}` : title;
  };
  const present = () => {
    const count = all("tr[data-order]:not(.gone)", rows()).length;
    const isEmpty = rows().children.length === 0;
    one("#orders").hidden = isEmpty;
    one("#no-orders").hidden = !isEmpty;
    one("#new-count").textContent = count + (one("#more a") ? "+" : "");
  };
  const rowOf = (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content.querySelector("tr");
  };
  // Which of two moments stands first in the list: the later one, or with the longest waiting first the earlier.
  const isBehind = (at, other) => {
    const longest = /[?&]order=longest(&|$)/.test(one("#live").dataset.changes);
    return longest ? Number(at) > Number(other) : Number(at) < Number(other);
  };
  const insert = (id, html) => {
    const row = rowOf(html);
    const before = all("tr[data-order]", rows()).find((each) => isBehind(each.dataset.at, row.dataset.at));
    if (!before && one("#more a")) return;
    rows().insertBefore(row, before || null);
    row.classList.add("fresh");
    htmx.process(row);
  };
  const flush = () => {
    if (!rows()) return;
    // What is read stays where it is on the screen.
    const anchor = window.scrollY > 80 ? all("tr[data-order]", rows()).find((each) => each.getBoundingClientRect().top > 80) : null;
    const top = anchor && anchor.getBoundingClientRect().top;
    for (const [id, html] of waiting) if (!one(`#o${id}`)) insert(id, html);
    waiting.clear();
    if (anchor) window.scrollBy(0, anchor.getBoundingClientRect().top - top);
    counted();
    present();
    tick();
  };
  const sweep = () => {
    if (!rows() || isBusy()) return;
    for (const row of all("tr.gone", rows())) row.remove();
    flush();
  };
  const gone = (row, why) => {
    row.classList.add("gone");
    const act = one("[data-act]", row);
    act.textContent = why;
    act.setAttribute("role", "status");
    present();
    if (!isBusy()) setTimeout(sweep, 2500);
  };
  // What has left the list, and why: a page that was read before that may still be on its way here.
  const left = new Map();
  let listed = one("#live");
  const sieve = () => {
    if (one("#live") !== listed) { listed = one("#live"); left.clear(); }
    for (const [id, why] of left) {
      const row = one(`#o${id}:not(.gone)`);
      if (row) gone(row, why);
    }
  };
  const changed = (message) => {
    const { id, html, why } = message;
    if (html) left.delete(id); else left.set(id, why || "");
    if (left.size > 500) left.delete(left.keys().next().value);
    const row = one(`#o${id}`);
    if (html && !row) {
      waiting.set(id, html);
      if (isBusy()) counted(); else flush();
    } else if (!html) {
      waiting.delete(id);
      counted();
      if (row && !row.classList.contains("gone")) gone(row, why || "");
    } else if (row && row.classList.contains("gone")) {
      // It was given back.
      const again = rowOf(html);
      row.replaceWith(again);
      htmx.process(again);
      present();
    }
  };
  document.addEventListener("pointerout", (event) => {
    if (event.target.closest && event.target.closest("#orders")) setTimeout(sweep, 400);
  });

  // Events of the server.
  const refresh = (selector) => { const part = one(selector); if (part) htmx.trigger(part, "refresh"); };
  const alive = () => {
    heard = Date.now();
    show("live");
    if (polling) { clearInterval(polling); polling = null; }
  };
  // Not while somebody writes in it, or has something open.
  const refreshWork = () => { if (!one("#work :is(input:focus, textarea:focus, details[open])")) refresh("#work"); };
  document.addEventListener("row", (event) => {
    alive();
    if (!rows()) return;
    const message = JSON.parse(event.detail.data);
    changed(message);
    // What the reader has done himself is there by then, by its own answer.
    setTimeout(() => {
      const job = one(`#work [data-job="${message.id}"]`);
      if (message.job ? !job || !one(`.s-${message.job}`, job) : job) refreshWork();
    }, 1500);
  });
  document.addEventListener("beat", alive);
  document.addEventListener("order", () => { alive(); refreshOrder(); });
  document.addEventListener("reload", () => { alive(); reloadList(); refreshWork(); });
  document.addEventListener("htmx:sse:error", () => show("off"));
  document.addEventListener("htmx:sse:after:connection", (event) => {
    if (event.detail.connection.status === 401) ask();
  });
  const refreshOrder = () => {
    const live = one("#live[data-refreshes]");
    // Not while somebody writes in it, or has something open.
    if (live && !one(`${live.dataset.refreshes} :is(input, textarea):focus`)) refresh(live.dataset.refreshes);
  };
  const reloadList = () => {
    const form = one("form.filters");
    if (form) htmx.trigger(form, "submit"); else refreshOrder();
  };
  // Where nothing is heard, as through a proxy that keeps all to itself, the page asks.
  const poll = async () => {
    const live = one("#live"), asked = Date.now();
    if (!live) return;
    try {
      const answer = await fetch(live.dataset.changes || location.href, { headers: { Accept: "application/json", "HX-Request": "true" } });
      if (answer.status === 401) { ask(); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      // What was heard meanwhile is newer than this answer, and the stream sends all that is behind it.
      const found = live.dataset.changes && await answer.json();
      if (heard >= asked) return;
      if (polling || asked - heard > 12000) { show("polling"); join(live); }
      if (live.dataset.changes) reconcile(found); else refreshOrder();
    } catch { show("off"); }
  };
  // A stream that was refused when it was first asked for is asked for by no one else. An answer may take 15 s.
  let joined = Date.now();
  const join = (live) => {
    if (live._htmx && live._htmx.sse || live !== one("#live") || Date.now() - joined < 20000) return;
    joined = Date.now();
    const again = live.cloneNode();
    live.replaceWith(again);
    if (listed === live) listed = again;
    htmx.process(again);
  };
  const reconcile = (found) => {
    const ids = new Set(found.orders.map((each) => each.id));
    for (const each of found.orders) changed(each);
    for (const row of all("tr[data-order]:not(.gone)", rows())) {
      const isOfNextPage = found.last && isBehind(row.dataset.at, found.last);
      if (!ids.has(row.dataset.order) && !isOfNextPage) changed({ id: row.dataset.order });
    }
    refreshWork();
  };
  setInterval(() => {
    if (!one("#live") || polling || Date.now() - heard < 12000) return;
    poll();
    polling = setInterval(poll, 5000);
  }, 2000);
  // A stream sends what is sent: not that the board was made again from the services.
  setInterval(() => { if (!polling) poll(); }, 300000);

  // Keys. None works while somebody writes, or with a modifier.
  const point = (step) => {
    const found = all("#rows tr[data-order]:not(.gone), .orders tbody tr[data-order]:not(.gone)");
    if (!found.length) return;
    const at = found.findIndex((each) => each.classList.contains("at"));
    const next = found[Math.min(found.length - 1, Math.max(0, at + step))];
    found.forEach((each) => each.classList.toggle("at", each === next));
    one("[data-open-order]", next).focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  };
  const click = (selector) => { const found = one(selector); if (found && !found.disabled) found.click(); };
  const keys = {
    j: () => point(1), k: () => point(-1), t: () => click("tr.at [data-take]"), n: () => click("#work [data-next]"),
    "/": () => one("#find") && one("#find").focus(), "?": () => one("#keys") && one("#keys").showModal(), ".": flush,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat && event.key !== "j" && event.key !== "k") return;
    if (event.key === "Escape") {
      all("tr.at").forEach((each) => each.classList.remove("at"));
      all("details:is(.menu, .ask)[open]").forEach((each) => each.removeAttribute("open"));
      if (document.activeElement && !one("dialog[open]")) document.activeElement.blur();
      sweep();
      return;
    }
    if (one("dialog[open]") || /^(input|select|textarea)$/i.test(event.target.tagName)) return;
    const act = keys[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  document.addEventListener("focusin", (event) => {
    const row = event.target.closest && event.target.closest("tr[data-order]");
    if (!row && event.target.closest && event.target.closest("#main")) {
      all("tr.at").forEach((each) => each.classList.remove("at"));
      sweep();
    }
  });
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open]");
    if (opener) one(`#${opener.dataset.open}`).showModal();
    if (event.target.closest("#show-new")) { all("tr.gone").forEach((each) => each.remove()); flush(); }
    // Not by a question over the page, behind which a form is sent again.
    for (const menu of all("details:is(.menu, .ask)[open]")) if (!event.target.closest("dialog") && !menu.contains(event.target)) menu.removeAttribute("open");
  });

  // What asks for words is written in at once.
  document.addEventListener("toggle", (event) => {
    const field = event.target.matches("details.ask[open]") && one("input:not([type=hidden]), textarea", event.target);
    if (field) field.focus();
  }, true);

  // Requests of htmx: questions before, and what to do with an answer that is none.
  let resume = null;
  document.addEventListener("htmx:confirm", (event) => {
    const question = event.detail.ctx.confirm;
    if (!question) return;
    event.preventDefault();
    const dialog = one("#confirm");
    one("#confirm-text").textContent = question;
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "yes") event.detail.issueRequest(); else event.detail.dropRequest();
    }, { once: true });
    dialog.showModal();
  });
  const ask = () => { const dialog = one("#signin"); if (dialog && !dialog.open) dialog.showModal(); };
  // What is asked again by itself every few seconds complains of nothing.
  const isQuiet = (ctx) => Boolean(ctx && ctx.sourceElement && ctx.sourceElement.matches("[data-quiet]"));
  document.addEventListener("htmx:before:swap", (event) => {
    const { ctx } = event.detail;
    const status = ctx.response && ctx.response.status;
    if (!status || status < 400 || ctx.response.headers.get("X-Part")) return;
    event.preventDefault();
    // The stream is asked for again by itself.
    if (ctx.sourceElement.id === "live") { if (status === 401) ask(); else show("off"); return; }
    if (isQuiet(ctx)) return;
    if (status === 401) {
      // What the reader asked for is asked again, whatever the page asks by itself before or after it.
      if (!resume || ctx.request.method !== "GET") resume = ctx.sourceElement;
      ask();
    } else {
      const said = ctx.response.headers.get("X-Said");
      toast(said ? decodeURIComponent(said) : say("Something went wrong. Nothing was changed."));
    }
  });
  document.addEventListener("htmx:error", (event) => {
    const { ctx } = event.detail;
    if (ctx && ctx.sourceElement && ctx.sourceElement.id === "live") { show("off"); return; }
    if (ctx && !ctx.response && !isQuiet(ctx)) toast(say("No connection. Nothing was changed; try again in a moment."));
  });
  document.addEventListener("htmx:after:swap", () => { tick(); drafts(); if (rows()) { sieve(); present(); } countFound(); });

  const countFound = () => {
    const count = one("#found-count");
    if (count) count.textContent = all("#found-rows tr").length + (one("#more a") ? "+" : "");
  };

  // What was written stays: in this tab, until it was done.
  const drafts = () => {
    for (const field of all("[data-draft]")) {
      const kept = sessionStorage.getItem(`draft:${field.dataset.draft}`);
      if (kept && !field.value) field.value = kept;
    }
  };
  document.addEventListener("input", (event) => {
    const name = event.target.dataset && event.target.dataset.draft;
    if (name) sessionStorage.setItem(`draft:${name}`, event.target.value);
  });
  document.addEventListener("htmx:after:request", (event) => {
    const { ctx } = event.detail;
    if (!ctx.response || ctx.response.status >= 400 || ctx.response.headers.get("X-Refused") || !ctx.sourceElement.matches("form")) return;
    for (const field of all("[data-draft]", ctx.sourceElement)) {
      sessionStorage.removeItem(`draft:${field.dataset.draft}`);
      field.value = "";
    }
    const asked = ctx.sourceElement.closest("details.ask");
    if (asked) asked.removeAttribute("open");
  });
  document.addEventListener("submit", async (event) => {
    if (!event.target.matches("[data-signin]")) return;
    event.preventDefault();
    const form = event.target, fault = one("[data-fault]", form);
    const said = { name: form.elements.name.value, password: form.elements.password.value };
    let answer = null;
    try {
      answer = await fetch("/v1/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(said) });
    } catch { /* shown below */ }
    fault.hidden = Boolean(answer && answer.ok);
    if (!answer || !answer.ok) {
      fault.textContent = say(answer && answer.status === 401 ? "Name and password do not belong together: check both." : "No connection. Nothing was changed; try again in a moment.");
      return;
    }
    form.reset();
    one("#signin").close();
    toast(say("Signed in again; nothing was lost."), "good");
    if (resume && resume.isConnected) { const again = resume; resume = null; again.matches("form") ? again.requestSubmit() : again.click(); }
  });

  // A page that the browser has kept is asked for again.
  window.addEventListener("pageshow", (event) => { if (event.persisted) { reloadList(); refresh("#work"); } });
  window.addEventListener("online", poll);
  window.addEventListener("offline", () => show("off"));

  // The link of a customer: what opens the order stands behind #, which no server is sent.
  const opens = one("[data-opens]");
  if (opens && location.hash.length > 20) {
    opens.elements.link.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname);
    opens.requestSubmit();
  }
  drafts();
  tick();
})();
