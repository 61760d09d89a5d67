// Turns each picture of a structure into one that can be rotated. No library, no request; without it the picture stays.
"use strict";
for (const box of document.querySelectorAll("[data-scene]")) show(box, JSON.parse(box.dataset.scene));

function show(box, scene) {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const bar = document.createElement("p"), shown = { ions: true, density: true, hops: true };
  if (!pen) return;
  let turn = scene.view.map(row => row.slice()), zoom = 1, asked = 0;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Structure; drag or use the arrow keys to rotate, + and - to zoom");
  bar.className = "controls";
  box.prepend(canvas);
  box.append(bar);
  box.classList.add("live");

  const points = [...scene.atoms, ...scene.edges, ...scene.edges.map(e => e.slice(3))];
  const reach = 0.92 * Math.max(1, ...points.map(p => Math.hypot(p[0], p[1], p[2]))) + 0.6;
  const apply = p => turn.map(row => row[0] * p[0] + row[1] * p[1] + row[2] * p[2]);
  const colours = () => {
    const style = getComputedStyle(document.documentElement), read = name => style.getPropertyValue(name).trim();
    return { soft: read("--soft"), cloud: read("--series-1"), hop: read("--series-2"), ink: read("--ink") };
  };

  function sprite(colour, shiny) {
    const one = document.createElement("canvas"), size = one.width = one.height = 64, brush = one.getContext("2d");
    const fill = shiny ? brush.createRadialGradient(23, 21, 1, 32, 32, 44) : brush.createRadialGradient(32, 32, 0, 32, 32, 32);
    fill.addColorStop(0, shiny ? "#ffffff" : colour);
    fill.addColorStop(shiny ? 0.35 : 0.4, colour);
    fill.addColorStop(1, shiny ? colour : "transparent");
    brush.fillStyle = fill;
    brush.beginPath();
    brush.arc(32, 32, 31, 0, 7);
    brush.fill();
    if (shiny) { brush.strokeStyle = "rgba(0,0,0,.45)"; brush.lineWidth = 2.5; brush.stroke(); }
    return one;
  }
  const balls = scene.elements.map(e => sprite(e[1], true));

  function draw() {
    asked = 0;
    const wide = canvas.clientWidth, high = canvas.clientHeight, dense = window.devicePixelRatio || 1, named = colours();
    if (!wide) return;
    canvas.width = wide * dense;
    canvas.height = high * dense;
    pen.setTransform(dense, 0, 0, dense, wide / 2 * dense, high / 2 * dense);
    const scale = zoom * Math.min(wide, high) / 2 / reach, todo = [];
    const line = (p, q, colour, width, lift) => todo.push([(p[2] + q[2]) / 2 + lift, () => {
      pen.strokeStyle = colour; pen.lineWidth = width; pen.lineCap = "round";
      pen.beginPath(); pen.moveTo(p[0] * scale, -p[1] * scale); pen.lineTo(q[0] * scale, -q[1] * scale); pen.stroke();
    }]);
    const stamp = (p, picture, radius, alpha) => todo.push([p[2], () => {
      const r = radius * scale;
      if (alpha) pen.globalAlpha = alpha;
      pen.drawImage(picture, p[0] * scale - r, -p[1] * scale - r, 2 * r, 2 * r);
    }]);
    for (const e of scene.edges) line(apply(e), apply(e.slice(3)), named.soft, 1, 0);
    const places = scene.atoms.map(apply);
    scene.atoms.forEach((a, i) => {
      if (shown.ions || a[3] !== scene.mobile) stamp(places[i], balls[a[3]], scene.elements[a[3]][2], 0);
    });
    for (const [i, j] of scene.bonds) {
      const middle = places[i].map((x, k) => (x + places[j][k]) / 2);
      for (const k of [i, j]) line(places[k], middle, scene.elements[scene.atoms[k][3]][1], 0.22 * scale, -0.3);
    }
    if (shown.density && scene.cloud.voxels.length) {
      const puff = sprite(named.cloud, false);
      for (const v of scene.cloud.voxels) stamp(apply(v), puff, scene.cloud.size, 0.12 + 0.004 * v[3]);
    }
    const most = Math.max(1, ...scene.hops.map(h => h[2]));
    if (shown.hops) for (const [p, q, n] of scene.hops) line(apply(p), apply(q), named.hop, 0.8 + 2.7 * Math.sqrt(n / most), 0.2);
    todo.sort((one, other) => one[0] - other[0]);
    for (const [depth, act] of todo) {
      pen.globalAlpha = Math.min(1, 0.68 + 0.32 * (depth / reach + 0.5));
      act();
    }
    pen.globalAlpha = 1;
    pen.fillStyle = named.ink;
    pen.font = "600 13px system-ui, sans-serif";
    scene.axes.forEach((axis, k) => {
      if (!scene.edges.length) return;
      const corner = scene.axes[0].map((_, i) => (scene.axes[k][i] * 1.06 - scene.axes[(k + 1) % 3][i] - scene.axes[(k + 2) % 3][i]) / 2);
      const p = apply(corner);
      pen.fillText("abc"[k], p[0] * scale, -p[1] * scale);
    });
  }
  const redraw = () => { if (!asked) asked = requestAnimationFrame(draw); };

  function rotate(right, up) {
    const [c, s, u, v] = [Math.cos(right), Math.sin(right), Math.cos(up), Math.sin(up)];
    const [x, y, z] = turn;
    const sideways = x.map((_, i) => c * x[i] + s * z[i]), depth = x.map((_, i) => c * z[i] - s * x[i]);
    turn = [sideways, y.map((_, i) => u * y[i] - v * depth[i]), depth.map((_, i) => u * depth[i] + v * y[i])];
    redraw();
  }
  function along(k) {
    const unit = p => p.map(x => x / (Math.hypot(...p) || 1)), dot = (p, q) => p[0] * q[0] + p[1] * q[1] + p[2] * q[2];
    const out = unit(scene.axes[k]), next = scene.axes[(k + 1) % 3];
    const right = unit(next.map((x, i) => x - dot(next, out) * out[i]));
    turn = [right, [0, 1, 2].map(i => out[(i + 1) % 3] * right[(i + 2) % 3] - out[(i + 2) % 3] * right[(i + 1) % 3]), out];
    redraw();
  }

  let held = null;
  canvas.addEventListener("pointerdown", e => { held = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", e => {
    if (!held) return;
    rotate((e.clientX - held[0]) / 120, (e.clientY - held[1]) / 120);
    held = [e.clientX, e.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
  const keys = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
  canvas.addEventListener("keydown", e => {
    if (keys[e.key]) rotate(...keys[e.key]);
    else if (e.key === "+" || e.key === "-") { zoom = Math.min(5, Math.max(0.5, zoom * (e.key === "+" ? 1.2 : 1 / 1.2))); redraw(); }
    else return;
    e.preventDefault();
  });

  function control(text, act, checked) {
    const label = document.createElement(checked === undefined ? "button" : "label");
    label.textContent = text;
    if (checked === undefined) label.addEventListener("click", act);
    else {
      const tick = document.createElement("input");
      tick.type = "checkbox";
      tick.checked = checked;
      tick.addEventListener("change", () => act(tick.checked));
      label.prepend(tick, " ");
    }
    bar.append(label, " ");
  }
  if (scene.edges.length) ["a", "b", "c"].forEach((name, k) => control("along " + name, () => along(k)));
  control("reset", () => { turn = scene.view.map(row => row.slice()); zoom = 1; redraw(); });
  for (const [name, there] of [["ions", scene.mobile >= 0], ["density", scene.cloud.voxels.length], ["hops", scene.hops.length]])
    if (there && (name !== "ions" || scene.cloud.voxels.length))
      control(name, on => { shown[name] = on; redraw(); }, shown[name]);

  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  redraw();
}
