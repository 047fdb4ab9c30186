// The map of report.html: a canvas to zoom, drag, point at and search in. Needs nothing from outside.
(() => {
  const canvas = document.getElementById("map");
  if (!canvas) return;
  const D = JSON.parse(document.getElementById("data").textContent);
  const ctx = canvas.getContext("2d"), tip = document.getElementById("tip"), legend = document.getElementById("legend");
  const search = document.getElementById("search"), colour = document.getElementById("colour"), hits = document.getElementById("hits");
  const view = { scale: 1, x: 0, y: 0 };
  let only = null, found = null, width = 0, height = 0, groups = D.groups[colour.value];

  const side = () => Math.min(width, height) - 40;
  const screenX = n => width / 2 + ((D.x[n] / 10000 - 0.5) * side() * (width > height ? 1.25 : 1)) * view.scale + view.x;
  const screenY = n => height / 2 + ((0.5 - D.y[n] / 10000) * side()) * view.scale + view.y;
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shade = g => (g < 0 ? css("--muted") : D.palette[g % D.palette.length]);
  const isShown = n => (only === null || groups.of[n] === only) && (!found || found.has(n));

  function mark(c, kind, x, y, r) {
    c.beginPath();
    if (kind === 0) c.arc(x, y, r, 0, 7);
    else if (kind === 1) c.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
    else if (kind === 2) { c.moveTo(x, y - r * 1.2); c.lineTo(x + r * 1.1, y + r * 0.8); c.lineTo(x - r * 1.1, y + r * 0.8); }
    else if (kind === 3) { c.moveTo(x, y - r * 1.2); c.lineTo(x + r * 1.2, y); c.lineTo(x, y + r * 1.2); c.lineTo(x - r * 1.2, y); }
    else if (kind === 4) { c.moveTo(x, y + r * 1.2); c.lineTo(x + r * 1.1, y - r * 0.8); c.lineTo(x - r * 1.1, y - r * 0.8); }
    else { c.rect(x - r * 1.2, y - r * 0.4, r * 2.4, r * 0.8); c.rect(x - r * 0.4, y - r * 1.2, r * 0.8, r * 2.4); }
    c.fill();
  }
  const kindOf = g => (g < 0 ? 0 : Math.floor(g / D.palette.length) % 6);

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    width = canvas.clientWidth; height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    const radius = Math.max(2, Math.min(6, 90 / Math.sqrt(D.x.length))) * Math.min(2, Math.sqrt(view.scale));
    for (const front of [false, true]) for (let n = 0; n < D.x.length; n++) {
      if (isShown(n) !== front) continue;
      const g = groups.of[n];
      ctx.globalAlpha = front ? (g < 0 ? 0.4 : 0.8) : 0.08;
      ctx.fillStyle = shade(g);
      mark(ctx, kindOf(g), screenX(n), screenY(n), g < 0 ? radius * 0.7 : radius);
    }
    ctx.globalAlpha = 1;
    if (groups.labels) label();
  }

  function label() {  // the largest groups first; a label that would cover another is left out until there is room
    ctx.font = "600 12px system-ui, sans-serif"; ctx.textAlign = "center"; ctx.textBaseline = "middle"; ctx.lineJoin = "round";
    const taken = [];
    for (const [g, n] of groups.labels) {
      if (only !== null && g !== only) continue;
      const text = g + " " + groups.names[g], w = ctx.measureText(text).width + 8, h = 17;
      const x = Math.min(Math.max(screenX(n), w / 2), width - w / 2);
      if (screenX(n) < 0 || screenX(n) > width || screenY(n) < 0 || screenY(n) > height) continue;
      for (const dy of [0, -18, 18, -36, 36]) {
        const y = Math.min(Math.max(screenY(n) + dy, h / 2), height - h / 2);
        if (taken.some(o => Math.abs(o[0] - x) < (o[2] + w) / 2 && Math.abs(o[1] - y) < h)) continue;
        taken.push([x, y, w]);
        ctx.strokeStyle = css("--bg"); ctx.lineWidth = 4; ctx.strokeText(text, x, y);
        ctx.fillStyle = css("--ink"); ctx.fillText(text, x, y);
        break;
      }
    }
  }

  function fillLegend() {
    legend.replaceChildren();
    for (const g of groups.order) {
      const button = document.createElement("button");
      const icon = document.createElement("canvas"), pen = icon.getContext("2d");
      icon.width = icon.height = 24; icon.className = "mark"; pen.fillStyle = shade(g);
      mark(pen, kindOf(g), 12, 12, 9);
      button.append(icon, (groups.numbered && g >= 0 ? g + " " : "") + (g < 0 ? "noise" : groups.names[g]));
      button.dir = "auto";
      button.setAttribute("aria-pressed", String(only === g));
      button.onclick = () => { only = only === g ? null : g; fillLegend(); draw(); };
      legend.append(button);
    }
  }

  function nearest(px, py) {
    let best = -1, distance = 144;
    for (let n = 0; n < D.x.length; n++) {
      if (!isShown(n)) continue;
      const d = (screenX(n) - px) ** 2 + (screenY(n) - py) ** 2;
      if (d < distance) { distance = d; best = n; }
    }
    return best;
  }

  function point(px, py) {
    const n = nearest(px, py);
    tip.style.display = n < 0 ? "none" : "block";
    if (n < 0) return;
    const head = document.createElement("b"), body = document.createElement("span");
    head.textContent = D.about.map(name => {
      const own = D.groups[name], g = own.of[n];
      return g < 0 ? "noise" : own.numbered ? "cluster " + g : own.names[g];
    }).concat("row " + D.row[n]).join(" · ");
    body.textContent = D.text[n]; body.dir = "auto"; body.style.display = "block";
    tip.replaceChildren(head, body);
    tip.style.left = Math.max(4, Math.min(px + 14, width - tip.offsetWidth - 6)) + "px";
    tip.style.top = Math.max(4, Math.min(py + 14, height - tip.offsetHeight - 6)) + "px";
  }

  function zoom(factor, px = width / 2, py = height / 2) {
    const next = Math.min(40, Math.max(0.5, view.scale * factor)), real = next / view.scale;
    view.x = (view.x + width / 2 - px) * real + px - width / 2;
    view.y = (view.y + height / 2 - py) * real + py - height / 2;
    view.scale = next;
    draw();
  }

  const fingers = new Map();
  canvas.onpointerdown = e => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, [e.offsetX, e.offsetY]); };
  canvas.onpointerup = canvas.onpointercancel = e => fingers.delete(e.pointerId);
  canvas.onpointerleave = () => { tip.style.display = "none"; };
  canvas.onpointermove = e => {
    const before = fingers.get(e.pointerId);
    if (!before) return point(e.offsetX, e.offsetY);
    const other = [...fingers].find(([id]) => id !== e.pointerId);
    if (other) {
      const [ox, oy] = other[1], old = Math.hypot(before[0] - ox, before[1] - oy);
      zoom(Math.hypot(e.offsetX - ox, e.offsetY - oy) / Math.max(old, 1), (ox + e.offsetX) / 2, (oy + e.offsetY) / 2);
    } else { view.x += e.offsetX - before[0]; view.y += e.offsetY - before[1]; draw(); }
    fingers.set(e.pointerId, [e.offsetX, e.offsetY]);
  };
  canvas.addEventListener("wheel", e => { e.preventDefault(); zoom(Math.exp(-e.deltaY / 400), e.offsetX, e.offsetY); }, { passive: false });
  canvas.onkeydown = e => {
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (e.key === "+") zoom(1.3); else if (e.key === "-") zoom(1 / 1.3);
    else if (moves[e.key]) { view.x += moves[e.key][0]; view.y += moves[e.key][1]; draw(); } else return;
    e.preventDefault();
  };
  document.getElementById("closer").onclick = () => zoom(1.4);
  document.getElementById("farther").onclick = () => zoom(1 / 1.4);
  document.getElementById("reset").onclick = () => { view.scale = 1; view.x = view.y = 0; only = null; search.value = ""; look(); };
  colour.onchange = () => { groups = D.groups[colour.value]; only = null; fillLegend(); draw(); };

  function look() {
    const wanted = search.value.trim().toLowerCase();
    found = wanted ? new Set(D.text.keys()) : null;
    if (found) D.text.forEach((text, n) => { if (!text.toLowerCase().includes(wanted)) found.delete(n); });
    hits.textContent = found ? found.size + " of " + D.text.length : "";
    fillLegend(); draw();
  }
  search.oninput = look;
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { fillLegend(); draw(); });
  look();
})();
