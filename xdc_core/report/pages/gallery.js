"use strict";
// The gallery of clusters: made from the JSON in #gallery-data; pictures and sounds are loaded when they are seen.
(() => {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const names = Object.keys(data.sources);
  const cards = document.getElementById("cards");
  if (!cards) return;
  const source = document.getElementById("source"), order = document.getElementById("order");
  const filter = document.getElementById("filter"), query = document.getElementById("query");
  const found = document.getElementById("found"), status = document.getElementById("status");
  const player = new Audio();
  let playing = null;

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const media = (key, suffix) => "media/" + encodeURIComponent(key) + suffix;
  const percent = (share) => Math.round(100 * share) + " %";
  const where = (key) => {
    const row = data.clips.rows[key];
    return row ? data.clips.files[row[0]] + " at " + row[1] + " s" : key;
  };

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

  const stop = () => {
    player.pause();
    if (playing) playing.classList.remove("playing");
    playing = null;
  };
  player.addEventListener("ended", stop);

  const play = (button) => {
    const again = playing === button;
    stop();
    if (again) return;
    playing = button;
    button.classList.add("playing");
    player.src = media(button.dataset.key, ".ogg");
    player.play().catch(() => { status.textContent = "There is no sound of " + button.dataset.key + "."; stop(); });
  };

  const clip = (key) => {
    if (data.media[key]) {
      return element("span", { class: "clip unseen", title: where(key) }, key + ": " + data.media[key]);
    }
    const button = element("button", { class: "clip", type: "button", title: where(key) + "\n" + key, "aria-label": "play " + where(key) },
      element("span", { class: "picture" }), element("span", { class: "sound" }));
    button.dataset.key = key;
    button.addEventListener("click", () => play(button));
    seen.observe(button);
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
    made.append(element("div", { class: "clips" }, ...row.examples.map(clip)));
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
    stop();
    seen.disconnect();
    const wanted = filter.value.trim().toLowerCase();
    const rows = data.sources[source.value]
      .filter((row) => !wanted || row.top.some((top) => top.label.toLowerCase().includes(wanted)) || String(row.cluster) === wanted)
      .sort((a, b) => by[order.value](a, b) || a.cluster - b.cluster);
    cards.replaceChildren(...rows.map((row) => card(source.value, row)));
    status.textContent = rows.length + " of " + data.sources[source.value].length + " clusters";
  };

  const visit = (name, cluster) => {
    source.value = name;
    filter.value = "";
    show();
    const target = document.getElementById(name + "-" + cluster);
    if (target) { target.scrollIntoView({ block: "center" }); target.focus({ preventScroll: true }); }
  };

  const search = () => {
    const wanted = query.value.trim().toLowerCase();
    found.replaceChildren();
    if (wanted.length < 2) return;
    const places = new Set(data.clips.files.flatMap((file, place) => file.toLowerCase().includes(wanted) ? [place] : []));
    const hits = Object.entries(data.clips.rows).filter(([key, row]) => places.has(row[0]) || key.toLowerCase().includes(wanted));
    const table = element("table", {}, element("tr", {}, ...["key", "source", "start", ...names.map((name) => name + " cluster")].map((head) => element("th", {}, head))));
    for (const [key, row] of hits.slice(0, 50)) {
      const cells = names.map((name, place) => {
        const cluster = row[2 + place];
        if (cluster === null) return element("td", {}, "none");
        const link = element("a", { href: "#" + name + "-" + cluster }, String(cluster));
        link.addEventListener("click", (event) => { event.preventDefault(); visit(name, cluster); });
        return element("td", {}, link);
      });
      table.append(element("tr", {}, element("td", {}, element("code", {}, key)), element("td", {}, data.clips.files[row[0]]), element("td", {}, row[1] + " s"), ...cells));
    }
    const note = hits.length + " clips" + (hits.length > 50 ? ", the first 50 are shown" : "") + (data.clips.all ? "" : " (of the examples; the corpus is too large for this page)");
    found.append(element("p", { class: "dim" }, note), table);
  };

  for (const control of [source, order]) control.addEventListener("change", show);
  filter.addEventListener("input", show);
  query.addEventListener("input", search);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
    if (event.key === "/" && !/INPUT|SELECT/.test(document.activeElement.tagName)) { event.preventDefault(); query.focus(); }
    const clips = [...document.querySelectorAll("button.clip")], at = clips.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (at >= 0 && step && clips[at + step]) { event.preventDefault(); clips[at + step].focus(); }
  });
  show();
})();
