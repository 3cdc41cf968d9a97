"use strict";
// The gallery of clusters: made from the JSON in #gallery-data; pictures are loaded when they are seen, sounds and sources
// when they are played, and the clips of a cluster from clusters/NAME-NUMBER.js when they are asked for.
(() => {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const names = Object.keys(data.sources);
  const cards = document.getElementById("cards");
  if (!cards) return;
  const source = document.getElementById("source"), order = document.getElementById("order");
  const filter = document.getElementById("filter"), query = document.getElementById("query");
  const found = document.getElementById("found"), status = document.getElementById("status");
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const media = (key, suffix) => "media/" + encodeURIComponent(key) + suffix;
  const percent = (share) => Math.round(100 * share) + " %";
  const listed = {};  // Clips that were loaded with the list of their cluster: key -> row as in data.clips.rows.
  const FIRST = 4;  // The place in a row of the cluster in the first label source.
  const info = (key) => {
    const row = data.clips.rows[key];
    return row ? { file: data.clips.files[row[0]], start: row[1], duration: row[2], label: row[3], clusters: row.slice(FIRST) } : listed[key];
  };
  const where = (key) => {
    const clip = info(key);
    return clip ? clip.file + " at " + clip.start + " s" : key;
  };
  const root = data.root && new URL(data.root, location.href).href;  // Relative to this page; "" if it is not known.
  const in_run = location.protocol === "file:" && /\/rounds\/\d+\/report\/[^/]*$/.test(location.pathname);
  const run = in_run ? decodeURIComponent(new URL("../../..", location.href).pathname).replace(/(.)\/$/, "$1") : data.run;
  const address = (file) => {
    if (/^[a-z0-9]+:\/\//i.test(file)) return "";  // In an object store.
    const path = file.split("/").map(encodeURIComponent).join("/");
    return file.startsWith("/") ? "file://" + path : root && root + path;
  };
  const link = (name, cluster, text = String(cluster)) => element("a", { href: "#" + name + "-" + cluster }, text);
  const $ = (id) => document.getElementById(id);

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      const image = 'url("' + media(entry.target.dataset.key, ".webp") + '")';
      for (const part of entry.target.children) part.style.backgroundImage = image;
      const probe = new Image();
      probe.onload = () => {
        const [picture, sound] = entry.target.children;
        const width = probe.width / 8;
        for (const part of [picture, sound]) part.style.width = width + "px";
        sound.style.backgroundSize = width + "px " + (probe.height * 26) / 40 + "px";
        sound.style.backgroundPosition = "0 " + (-72 * 26) / 40 + "px";
      };
      probe.src = media(entry.target.dataset.key, ".webp");
    }
  }, { rootMargin: "300px" });

  // The player: the source of a clip where the browser can play it, else its example pictures in step with its sound.
  const player = $("player"), film = $("film"), sound = new Audio();
  let current = null, keys = [], at = 0, serial = 0;
  let clock = null;  // When a clip without sound began, in milliseconds.

  const stop = () => { film.pause(); sound.pause(); clock = null; };
  const media_of = (key) => key in data.media && !data.media[key];
  const no_media = (key) => data.media[key] ? "the page has no pictures and sound of the clip (" + data.media[key] + ")"
    : "the clip is no example, of which the page has pictures and sound";
  // A button that is disabled while it has the focus loses it, and the arrow keys with it.
  const enable = (id, on) => $(id).setAttribute("aria-disabled", String(!on));
  const filmed = () => !film.hidden;
  const paint = () => {
    if (!player.open) return;
    const clip = info(current), silent = clock !== null;
    const done = filmed() ? (film.currentTime - clip.start) / clip.duration
      : silent ? (performance.now() - clock) / 1000 / clip.duration : sound.currentTime / sound.duration;
    const share = Math.min(1, Math.max(0, done || 0));
    $("strip-sound").firstElementChild.style.left = 100 * share + "%";
    $("strip-picture").style.backgroundPosition = (100 / 7) * Math.min(7, Math.floor(8 * share)) + "% 0";
    requestAnimationFrame(paint);
  };
  const without_sound = () => {
    if (!player.open || filmed() || clock !== null || !sound.getAttribute("src")) return;
    clock = performance.now();
    $("player-note").textContent = "The clip has no sound.";
  };
  const started = (promise, mine) => promise.catch((error) => {
    // A media element that is given another address, or is paused before it began, is no failure.
    if (mine !== serial || error.name === "AbortError") return;
    if (!filmed() && sound.error) without_sound();
    else $("player-note").textContent = "The clip cannot be played: " + error.message;
  });
  const play = (more = 0) => {
    const clip = info(current);
    stop();
    const mine = ++serial;
    if (filmed()) {
      const from = Math.max(0, clip.start - more), to = clip.start + clip.duration + more;
      film.src = address(clip.file) + "#t=" + from.toFixed(3) + "," + to.toFixed(3);
      started(film.play(), mine);
    } else if (sound.src) {
      sound.currentTime = 0;
      started(sound.play(), mine);
    }
  };
  const without_film = () => {
    if (!player.open || film.hidden || !film.getAttribute("src")) return;
    film.hidden = true;
    enable("around", false);
    enable("play", media_of(current));
    $("strip-picture").hidden = false;
    $("player-note").textContent = media_of(current)
      ? "The source is not there, or this browser cannot play it: eight pictures in step with the sound."
      : "The source is not there, or this browser cannot play it, and " + no_media(current) + ".";
    play();
  };
  film.addEventListener("error", without_film);
  film.addEventListener("loadedmetadata", () => { $("strip-picture").hidden = film.videoWidth > 0; });
  sound.addEventListener("error", without_sound);

  const facts = (key, clip) => {
    const url = address(clip.file), end = +(clip.start + clip.duration).toFixed(2);
    const named = url ? element("a", { href: url + "#t=" + clip.start + "," + end, target: "_blank" }, clip.file) : clip.file;
    const rows = [["key", element("code", {}, key)], ["source", named], ["seconds", clip.start + " to " + end]];
    if (clip.label !== null && clip.label !== undefined) rows.push([data.label, clip.label]);
    names.forEach((name, place) => {
      const cluster = clip.clusters[place];
      if (cluster !== null && cluster !== undefined) rows.push([name + " cluster", link(name, cluster)]);
    });
    return element("table", {}, ...rows.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value))));
  };
  const quoted = (word) => /^[\w@%+=:,./-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\\''") + "'";
  const similar = (key) => {
    const parts = [];
    for (const [name, found] of Object.entries(data.similar)) {
      const pairs = (found[key] || []).filter(([other]) => info(other));  // Others were removed from the corpus.
      const near = pairs.map(([other]) => other);
      if (!near.length) continue;
      parts.push(element("h4", {}, "Similar clips by " + name + " (cosine of features)"), element("ul", {}, ...pairs.map(([other, cosine]) => {
        const shown = media_of(other) ? clip(other, near) : element("button", { type: "button", class: "link" }, where(other));
        if (!media_of(other)) shown.addEventListener("click", () => enlarge(other, near));
        return element("li", {}, shown, element("div", {}, cosine.toFixed(3)));
      })));
    }
    parts.push(element("p", { class: "dim" }, "To search all clips: ", element("code", {}, ["xdc search", quoted(run), "--round", data.round, quoted(key)].join(" "))));
    return parts;
  };
  const enlarge = (key, among) => {
    stop();
    [current, keys, at] = [key, among, Math.max(0, among.indexOf(key))];
    const clip = info(key), url = address(clip.file), made = media_of(key);
    $("player-title").textContent = where(key);
    $("player-note").textContent = url || made ? "" : "The page does not know where the source is, and " + no_media(key) + ".";
    $("facts").replaceChildren(facts(key, clip));
    $("similar").replaceChildren(...similar(key));
    enable("previous", at > 0);
    enable("next", at < keys.length - 1);
    film.hidden = !url;
    enable("around", url);
    enable("play", url || made);
    if (!url) film.removeAttribute("src");
    $("strip").hidden = !made;
    $("strip-picture").hidden = Boolean(url);
    if (made) {
      sound.src = media(key, ".ogg");
      const probe = new Image();
      probe.onload = () => {
        if (current !== key) return;
        for (const part of [$("strip-picture"), $("strip-sound")]) part.style.backgroundImage = 'url("' + media(key, ".webp") + '")';
        $("strip-picture").style.aspectRatio = probe.width / 8 + " / 72";
        $("strip-sound").style.aspectRatio = probe.width / 8 + " / 30";
        $("strip-sound").style.backgroundSize = "100% " + (100 * probe.height) / 40 + "%";
        $("strip-sound").style.backgroundPosition = "0 100%";
      };
      probe.src = media(key, ".webp");
    } else sound.removeAttribute("src");
    if (!player.open) { player.showModal(); requestAnimationFrame(paint); }
    player.scrollTop = 0;
    play();
  };
  const step = (by) => { if (keys[at + by]) enlarge(keys[at + by], keys); };
  $("play").addEventListener("click", () => play());
  $("around").addEventListener("click", () => { if (filmed()) play(5); });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  player.addEventListener("close", () => {
    stop();
    serial++;
    film.removeAttribute("src");
    film.load();
    const shown = [...document.querySelectorAll("#cards button.clip")].find((button) => button.dataset.key === current);
    if (shown && !$("members").open && !document.activeElement.matches(".card")) shown.focus();
  });
  player.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by && event.target !== film) { event.preventDefault(); event.stopPropagation(); step(by); }
  });
  // A click beside a dialog closes it; not one in its padding, nor the end of a selection that began inside.
  for (const dialog of document.querySelectorAll("dialog")) {
    let beside = false;
    dialog.addEventListener("pointerdown", (event) => {
      const box = dialog.getBoundingClientRect();
      beside = event.clientX < box.left || event.clientX > box.right || event.clientY < box.top || event.clientY > box.bottom;
    });
    dialog.addEventListener("click", (event) => { if (event.target === dialog && beside) dialog.close(); });
  }

  const clip = (key, among) => {
    const why = data.media[key], label = (why ? "show " : "play ") + where(key);
    const button = element("button", { class: why ? "clip unseen" : "clip", type: "button", title: where(key) + "\n" + key, "aria-label": label },
      ...(why ? [key + ": " + why] : [element("span", { class: "picture" }), element("span", { class: "sound" })]));
    button.dataset.key = key;
    button.addEventListener("click", () => enlarge(key, among));
    if (!why) seen.observe(button);
    return button;
  };

  const card = (name, row) => {
    const facts = row.size + (row.size === 1 ? " clip" : " clips") + (row.distance === null ? "" : ", distance " + row.distance.toFixed(2));
    const made = element("section", { class: "card", id: name + "-" + row.cluster, tabindex: "-1" },
      element("h3", {}, name + " " + row.cluster, element("span", {}, facts)));
    if (row.purity !== null) {
      const bar = element("i");
      bar.style.width = percent(row.purity).replace(" ", "");
      made.append(element("div", { class: "purity", title: "purity " + percent(row.purity) }, bar),
        element("div", { class: "labels" }, ...row.top.flatMap((top) => [element("b", {}, top.label), " " + percent(top.share) + "  "])));
    }
    made.append(element("div", { class: "clips" }, ...row.examples.map((key) => clip(key, row.examples))));
    if (row.size) made.append(element("p", { class: "all" }, element("a", { href: "#all/" + name + "-" + row.cluster }, row.size === 1 ? "the clip" : "all " + row.size + " clips")));
    return made;
  };

  const by = {
    purest: (a, b) => (b.purity ?? -1) - (a.purity ?? -1) || b.size - a.size,
    mixed: (a, b) => (a.purity ?? 2) - (b.purity ?? 2) || b.size - a.size,
    largest: (a, b) => b.size - a.size,
    smallest: (a, b) => a.size - b.size,
    tightest: (a, b) => (a.distance ?? Infinity) - (b.distance ?? Infinity),
    loosest: (a, b) => (b.distance ?? -1) - (a.distance ?? -1),
    number: (a, b) => a.cluster - b.cluster,
  };

  const show = () => {
    seen.disconnect();
    const wanted = filter.value.trim().toLowerCase();
    const rows = data.sources[source.value]
      .filter((row) => !wanted || row.top.some((top) => top.label.toLowerCase().includes(wanted)) || String(row.cluster) === wanted)
      .sort((a, b) => by[order.value](a, b) || a.cluster - b.cluster);
    cards.replaceChildren(...rows.map((row) => card(source.value, row)));
    status.textContent = rows.length + " of " + data.sources[source.value].length + " clusters";
  };

  const visit = (name, cluster) => {
    for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
    source.value = name;
    filter.value = "";
    show();
    const target = $(name + "-" + cluster);
    if (target) { target.scrollIntoView({ block: "center" }); target.focus({ preventScroll: true }); }
  };

  // All clips of a cluster: a table, which is also given as CSV.
  const members = $("members"), SHOWN = 200;
  let list = null, most = SHOWN, was = null;
  const pending = new Map();  // NAME-NUMBER -> what is waiting for this list.
  let asked = 0;  // Counts the lists that were asked for: only the last one is shown.
  window.clusterClips = (name, cluster, content) => {
    const waiting = pending.get(name + "-" + cluster);
    if (waiting) waiting.resolve(content);
  };
  const load = (name, cluster) => {
    const of = name + "-" + cluster;
    if (pending.has(of)) return pending.get(of).promise;
    const waiting = {};
    waiting.promise = new Promise((resolve, reject) => {
      const script = element("script", { src: "clusters/" + encodeURIComponent(name) + "-" + cluster + ".js" });
      const ended = (trouble) => { script.remove(); pending.delete(of); reject(new Error(script.src + trouble)); };
      waiting.resolve = resolve;
      script.onload = () => ended(" is not a complete list");  // Of no effect after the list was given.
      script.onerror = () => ended(" is not there");
      document.head.append(script);
    });
    pending.set(of, waiting);
    return waiting.promise;
  };
  const compared = () => Boolean(data.usual[list.name]);  // Whether there are clusters of the round before.
  const moved = (row) => row.before !== null && compared() && data.usual[list.name][row.before] !== list.cluster;
  const wanted_rows = () => {
    const wanted = $("members-filter").value.trim().toLowerCase(), only = $("members-moved") && $("members-moved").checked;
    return list.rows.filter((row) => (!only || moved(row)) && (was === null || row.before === was)
      && (!wanted || [row.key, row.file, row.label].some((text) => text && text.toLowerCase().includes(wanted))));
  };
  const fill = () => {
    const rows = wanted_rows(), others = names.filter((name) => name !== list.name), all = rows.map((row) => row.key);
    const heads = ["clip", "seconds", "distance", ...(data.label ? [data.label] : []), ...others.map((name) => name + " cluster"), ...(compared() ? ["in round " + (data.round - 1)] : [])];
    $("members-table").replaceChildren(element("tr", {}, ...heads.map((head) => element("th", {}, head))), ...rows.slice(0, most).map((row) => {
      const open = element("button", { type: "button", class: "link", title: row.key }, row.file);
      open.addEventListener("click", () => enlarge(row.key, all));
      const cells = [open, row.start + " to " + +(row.start + row.duration).toFixed(2), row.distance.toFixed(3)];
      if (data.label) cells.push(row.label ?? "none");
      others.forEach((name, place) => cells.push(row.others[place] === null ? "none" : link(name, row.others[place])));
      if (compared()) cells.push(row.before === null ? "not in it" : row.before + (moved(row) ? ", changed" : ""));
      return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
    }));
    $("members-more").hidden = rows.length <= most;
    const part = list.rows.length < list.size ? "; the " + list.rows.length + " nearest to the centroid are listed, docs/inspect.md has the query for all" : "";
    $("members-note").textContent = rows.length + " of " + list.size + " clips, nearest to the centroid first" + part
      + (was === null ? "." : "; those that were in cluster " + was + " of round " + (data.round - 1) + ".");
  };
  const csv = () => {
    const others = names.filter((name) => name !== list.name);
    const cell = (value) => {
      // Spreadsheets run text that begins like a formula.
      const text = value === null ? "" : typeof value === "string" && /^[=+@\t\r-]/.test(value) ? "'" + value : String(value);
      return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
    };
    const heads = ["key", "source", "start_s", "duration_s", "distance", ...(data.label ? [data.label] : []), ...others.map((name) => name + "_cluster"), ...(compared() ? ["cluster_before"] : [])];
    const rows = wanted_rows().map((row) => [row.key, row.file, row.start, row.duration, row.distance, ...(data.label ? [row.label] : []), ...row.others, ...(compared() ? [row.before] : [])]);
    return [heads, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  };
  const show_members = async (name, cluster, before = null) => {
    const found = data.sources[name] && data.sources[name].find((row) => row.cluster === cluster);
    if (!found) return;
    const mine = ++asked, loaded = await load(name, cluster).catch((error) => ({ files: [], rows: [], error }));
    if (mine !== asked) return;
    const place = names.indexOf(name);
    const rows = loaded.rows.map(([key, file, start, duration, distance, label, was, ...others]) =>
      ({ key, file: loaded.files[file], start, duration, distance, label, before: was, others }));
    for (const row of rows) listed[row.key] = { ...row, clusters: [...row.others.slice(0, place), cluster, ...row.others.slice(place)] };
    [list, most, was] = [{ name, cluster, rows, size: found.size }, SHOWN, before];
    $("members-title").textContent = name + " " + cluster + ": all clips";
    $("members-filter").value = "";
    if ($("members-moved")) $("members-moved").checked = before !== null;
    fill();
    if (loaded.error) $("members-note").textContent = loaded.error.message + ". Copy the folder of this page as a whole, or make it again: xdc stage report --force.";
    if (!members.open) members.showModal();
  };
  for (const id of ["members-filter", "members-moved"]) if ($(id)) $(id).addEventListener("input", () => { was = null; fill(); });
  $("members-more").addEventListener("click", () => { most += SHOWN; fill(); });
  $("members-csv").addEventListener("click", (event) => {
    const saved = element("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: list.name + "-" + list.cluster + ".csv" });
    event.preventDefault();
    saved.click();
    setTimeout(() => URL.revokeObjectURL(saved.href), 1000);
  });

  // Addresses within the page: #NAME-NUMBER is a card, #all/NAME-NUMBER its list, #moved/NAME-NUMBER/BEFORE a part of it.
  const go = (hash) => {
    let text = hash;
    try { text = decodeURIComponent(hash); } catch { /* A % that begins no escape: as it stands. */ }
    const parts = /^#(?:(all|moved)\/)?(.+)-(\d+)(?:\/(\d+))?$/.exec(text);
    if (!parts || !data.sources[parts[2]]) return false;
    if (parts[1]) show_members(parts[2], +parts[3], parts[4] === undefined ? null : +parts[4]);
    else visit(parts[2], +parts[3]);
    return true;
  };
  document.addEventListener("click", (event) => {
    const clicked = event.target.closest && event.target.closest("a[href^='#']");
    if (clicked && clicked.id !== "members-csv" && go(clicked.getAttribute("href"))) {
      event.preventDefault();
      history.replaceState(null, "", clicked.getAttribute("href"));
    }
  });
  window.addEventListener("hashchange", () => go(location.hash));

  const search = () => {
    const wanted = query.value.trim().toLowerCase();
    found.replaceChildren();
    if (wanted.length < 2) return;
    const places = new Set(data.clips.files.flatMap((file, place) => file.toLowerCase().includes(wanted) ? [place] : []));
    const hits = Object.entries(data.clips.rows).filter(([key, row]) => places.has(row[0]) || key.toLowerCase().includes(wanted));
    const table = element("table", {}, element("tr", {}, ...["key", "source", "start", ...names.map((name) => name + " cluster")].map((head) => element("th", {}, head))));
    const opener = (key, hits) => {
      const open = element("button", { type: "button", class: "link" }, key);
      open.addEventListener("click", () => enlarge(key, hits.map(([other]) => other)));
      return open;
    };
    for (const [key, row] of hits.slice(0, 50)) {
      const cells = names.map((name, place) => {
        const cluster = row[FIRST + place];
        if (cluster === null) return element("td", {}, "none");
        return element("td", {}, link(name, cluster));
      });
      table.append(element("tr", {}, element("td", {}, opener(key, hits)), element("td", {}, data.clips.files[row[0]]), element("td", {}, row[1] + " s"), ...cells));
    }
    const note = hits.length + " clips" + (hits.length > 50 ? ", the first 50 are shown" : "") + (data.clips.all ? "" : " (of the examples; the corpus is too large for this page)");
    found.append(element("p", { class: "dim" }, note), table);
  };

  for (const control of [source, order]) control.addEventListener("change", show);
  filter.addEventListener("input", show);
  query.addEventListener("input", search);
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "/" && !/INPUT|SELECT/.test(document.activeElement.tagName)) { event.preventDefault(); query.focus(); }
    const clips = [...document.querySelectorAll("#cards button.clip")], at = clips.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (at >= 0 && step && clips[at + step]) { event.preventDefault(); clips[at + step].focus(); }
  });
  show();
  go(location.hash);
})();
