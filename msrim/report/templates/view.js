// The interactive page of one visit. The drawing holds 1 where a voxel is lesion; NiiVue keeps it in the order
// right, anterior, superior ("RAS"), files are in the FLAIR's own order ("own"), and `own` below leads from one to the other.
const $ = (id) => document.getElementById(id);
// Whatever goes wrong is said in the page, which nobody waits for in vain.
const failed = (error) => {
  $("loading").hidden = false;
  $("loading").textContent = `This page cannot be shown: ${error?.message ?? error}`;
};
window.addEventListener("error", (event) => failed(event.error ?? event.message));
window.addEventListener("unhandledrejection", (event) => failed(event.reason));
const {Niivue} = await import("./niivue.js");

const LESION_COLOURS = {R: [0, 255], G: [0, 79], B: [0, 216], A: [0, 255], I: [0, 1], labels: ["", "lesion"], min: 0, max: 1};
const VIEWS = {all: 3, axial: 0, coronal: 1, sagittal: 2, render: 4};
// NiiVue's numbers for whether the 3-D view stands beside the planes.
const PLANES_ALONE = 0, WITH_3D = 1;
const PEN = {off: null, add: 1, erase: 0};

const fetched = async (name) => {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
};
const visiting = fetched("visit.json").then((answer) => answer.json());
const picture = fetched("FLAIR.nii").then((answer) => answer.arrayBuffer());

const viewer = new Niivue({
  isRadiologicalConvention: true, backColor: [0, 0, 0, 1], crosshairColor: [0.51, 0.72, 1, 0.75], crosshairWidth: 1,
  crosshairWidthUnit: "mm", crosshairGap: 6, show3Dcrosshair: true, multiplanarShowRender: PLANES_ALONE, multiplanarLayout: 2, tileMargin: 4,
  sliceType: VIEWS.all, penSize: 3, maxDrawUndoBitmaps: 24, dragMode: 1, fontColor: [0.75, 0.8, 0.86, 1], fontMinPx: 12,
  isForceMouseClickToVoxelCenters: true, logLevel: "error", isNearestInterpolation: false, dragAndDropEnabled: false,
});
await viewer.attachToCanvas($("canvas"));
viewer.setDrawColormap(LESION_COLOURS);
viewer.drawOpacity = Number($("fill").value);
viewer.drawRimOpacity = 1;
await viewer.loadFromArrayBuffer(await picture, "FLAIR.nii");
const visit = await visiting;
const flair = viewer.volumes[0];
const shown = new Map([["FLAIR", flair]]);

// Where each voxel of the drawing lies in the FLAIR's own order.
const [nx, ny, nz] = flair.dimsRAS.slice(1);
const own = new Uint32Array(nx * ny * nz);
{
  const [a, b, c] = flair.img2RASstart, [i, j, k] = flair.img2RASstep;
  let at = 0;
  for (let z = 0; z < nz; z++) for (let y = 0; y < ny; y++) {
    let from = a + b + c + z * k + y * j;
    for (let x = 0; x < nx; x++, from += i) own[at++] = from;
  }
}
// By lesion, the voxels of the drawing that were found.
const voxels = new Map(visit.lesions.map((lesion) => [lesion.id, []]));
const label = new Uint32Array(own.length), start = new Uint8Array(own.length), found = new Uint8Array(own.length);
{
  const numbered = new Uint32Array(own.length), masks = {mask: new Uint8Array(own.length), found: new Uint8Array(own.length)};
  for (let i = 0; i < visit.numbered.length; i += 3) {
    const [from, length, id] = visit.numbered.slice(i, i + 3);
    numbered.fill(id, from, from + length);
  }
  for (const [name, mask] of Object.entries(masks)) {
    for (let i = 0; i < visit[name].length; i += 2) mask.fill(1, visit[name][i], visit[name][i] + visit[name][i + 1]);
  }
  for (let at = 0; at < own.length; at++) {
    label[at] = numbered[own[at]];
    start[at] = masks.mask[own[at]];
    found[at] = masks.found[own[at]];
    if (label[at]) voxels.get(label[at])?.push(at);
  }
}

// The drawing.
viewer.createEmptyDrawing();
viewer.drawBitmap.set(start);
viewer.drawClearAllUndoBitmaps();
viewer.drawAddUndoBitmap();
viewer.refreshDrawing(false);

// What is said of it.
let saved = {drawing: start, note: visit.note}, state = visit.state, differing = 0;
let selected = null;
const rows = new Map();
const isSaved = () => !differing && saved.note === $("note").value;
const tell = (text, wrong = false) => { $("state").textContent = text; $("state").classList.toggle("wrong", wrong); };
function update() {
  const drawing = viewer.drawBitmap;
  let count = 0, added = 0, erased = 0;
  differing = 0;
  for (let at = 0; at < drawing.length; at++) {
    differing += drawing[at] !== saved.drawing[at];
    if (drawing[at]) { count++; if (!found[at]) added++; } else if (found[at]) erased++;
  }
  let left = 0;
  for (const lesion of visit.lesions) {
    const all = voxels.get(lesion.id);
    let kept = 0;
    for (const at of all) kept += drawing[at];
    left += kept > 0;
    const {row, volume, remove} = rows.get(lesion.id);
    row.className = `${kept ? "" : "removed"} ${kept && kept < all.length ? "changed" : ""} ${lesion.id === selected ? "selected" : ""}`;
    volume.textContent = (kept && kept < all.length ? kept * visit.voxel_mm3 : lesion.volume_mm3).toFixed(1);
    remove.textContent = kept ? "remove" : "restore";
  }
  $("count").textContent = left;
  $("count-word").textContent = left === 1 ? "lesion" : "lesions";
  $("volume").textContent = (count * visit.voxel_mm3 / 1000).toFixed(2);
  $("difference").textContent = added || erased ? `(+${added} −${erased} voxels)` : "";
  const clean = isSaved();
  $("submit").disabled = clean;
  if (!clean) tell("Not saved yet");
  else if ($("state").textContent === "Not saved yet") tell("");
}
// Of a ring or a crescent the middle lies outside: the lesion's own voxel nearest to it.
function placeOf(lesion) {
  const size = flair.pixDimsRAS.slice(1);
  const points = voxels.get(lesion.id).map((at) => [at % nx, Math.floor(at / nx) % ny, Math.floor(at / (nx * ny))]);
  const middle = [0, 1, 2].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  const away = (point) => point.reduce((sum, at, axis) => sum + ((at - middle[axis]) * size[axis]) ** 2, 0);
  return points.reduce((best, point) => (away(point) < away(best) ? point : best));
}
const fracOf = (voxel) => voxel.map((at, axis) => (at + 0.5) / [nx, ny, nz][axis]);
function select(lesion, {jump = false} = {}) {
  selected = lesion?.id ?? null;
  for (const [id, {row}] of rows) row.classList.toggle("selected", id === selected);
  if (!lesion) return;
  if (jump) {
    viewer.scene.crosshairPos = fracOf(placeOf(lesion));
    viewer.createOnLocationChange();
    viewer.drawScene();
  }
  rows.get(lesion.id).row.scrollIntoView({block: "nearest"});
}
function toggle(lesion) {
  const all = voxels.get(lesion.id);
  const on = all.some((at) => viewer.drawBitmap[at]) ? 0 : 1;
  for (const at of all) viewer.drawBitmap[at] = on;
  viewer.drawAddUndoBitmap();
  viewer.refreshDrawing(true);
  update();
}
for (const lesion of visit.lesions) {
  const row = $("lesions").insertRow();
  row.tabIndex = 0;
  row.dataset.lesion = lesion.id;
  const cells = [lesion.id, "", lesion.region, ""].map((text) => {
    const cell = row.insertCell();
    cell.textContent = text;
    return cell;
  });
  cells[2].className = "text";
  const remove = document.createElement("button");
  remove.type = "button";
  cells[3].append(remove);
  remove.addEventListener("click", (event) => { event.stopPropagation(); select(lesion, {jump: true}); toggle(lesion); });
  row.addEventListener("click", () => select(lesion, {jump: true}));
  row.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target === row) select(lesion, {jump: true}); });
  rows.set(lesion.id, {row, volume: cells[1], remove});
}

// Where the cross is. NiiVue's own millimetres are those of an image that is not oblique; the matrix knows the true ones.
const byId = new Map(visit.lesions.map((lesion) => [lesion.id, lesion]));
viewer.onLocationChange = ({values}) => {
  const voxel = viewer.frac2vox(viewer.scene.crosshairPos), m = flair.matRAS;
  const lesion = byId.get(label[voxel[0] + nx * (voxel[1] + ny * voxel[2])]);
  const mm = [0, 4, 8].map((row) => m[row] * voxel[0] + m[row + 1] * voxel[1] + m[row + 2] * voxel[2] + m[row + 3]);
  const position = mm.map((value, axis) => `${"xyz"[axis]} ${value.toFixed(1)}`).join("  ");
  const grey = values.filter((value) => shown.get(current)?.id === value.id).map((value) => `${current} ${value.value.toFixed(0)}`);
  $("where").textContent = [`${position} mm`, ...grey, lesion ? `lesion ${lesion.id}, ${lesion.region}` : ""].filter(Boolean).join("  ·  ");
  if (lesion && lesion.id !== selected) select(lesion);
};
viewer.onMouseUp = () => { if (viewer.opts.drawingEnabled) update(); };

// Contrasts, one at a time; those beside the FLAIR are fetched when they are first asked for.
let current = "FLAIR";
async function showContrast(name) {
  const before = current;
  current = name;
  const mark = () => choose("#contrasts button", (button) => button.dataset.contrast === current);
  mark();
  if (!shown.has(name)) {
    $("loading").hidden = false;
    try {
      const content = await (await fetched(`${name}.nii`)).arrayBuffer();
      if (!shown.has(name)) {
        await viewer.addVolumeFromUrl({url: content, name: `${name}.nii`, colormap: "gray", opacity: 0, trustCalMinMax: true});
        shown.set(name, viewer.volumes.at(-1));
      }
    } catch (error) {
      current = before;
      mark();
      return tell(`${name} cannot be shown: ${error instanceof TypeError ? "the server has ended" : error.message}`, true);
    } finally {
      $("loading").hidden = true;
    }
  }
  for (const [other, volume] of shown) if (other !== "FLAIR") volume.opacity = other === current ? 1 : 0;
  viewer.updateGLVolume();
}
const choose = (selector, chosen) => {
  for (const button of document.querySelectorAll(selector)) button.setAttribute("aria-checked", chosen(button));
};
for (const [number, name] of visit.contrasts.entries()) {
  const button = document.createElement("button");
  button.textContent = name;
  button.dataset.contrast = name;
  button.title = `Key ${number + 1}`;
  button.setAttribute("role", "radio");
  button.addEventListener("click", () => showContrast(name));
  $("contrasts").append(button);
}
choose("#contrasts button", (button) => button.dataset.contrast === "FLAIR");

// Tools.
for (const button of document.querySelectorAll("[data-layout]")) {
  button.addEventListener("click", () => {
    choose("[data-layout]", (other) => other === button);
    viewer.setSliceType(VIEWS[button.dataset.layout]);
  });
}
function setPen(name) {
  choose("[data-pen]", (button) => button.dataset.pen === name);
  viewer.setDrawingEnabled(PEN[name] !== null);
  if (PEN[name] !== null) viewer.setPenValue(PEN[name], $("closed").checked);
  viewer.opts.penSize = Number($("size").value);
  $("canvas").style.cursor = name === "off" ? "default" : "crosshair";
}
const pen = () => document.querySelector("[data-pen][aria-checked=true]").dataset.pen;
for (const button of document.querySelectorAll("[data-pen]")) button.addEventListener("click", () => setPen(button.dataset.pen));
for (const id of ["size", "closed"]) $(id).addEventListener("change", () => setPen(pen()));
const opacity = () => {
  viewer.drawRimOpacity = $("show").checked ? 1 : 0;
  viewer.setDrawOpacity($("show").checked ? Number($("fill").value) : 0);
};
$("show").addEventListener("change", opacity);
$("fill").addEventListener("input", opacity);
const undo = () => { viewer.drawUndo(); update(); };
$("undo").addEventListener("click", undo);
$("original").addEventListener("click", () => {
  viewer.drawBitmap.set(found);
  viewer.drawAddUndoBitmap();
  viewer.refreshDrawing(true);
  update();
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("textarea, input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "v") setPen("off");
  else if (key === "a") setPen("add");
  else if (key === "e") setPen("erase");
  else if (key === "z") undo();
  else if (key === "l") { $("show").checked = !$("show").checked; opacity(); }
  else if (key === "[" || key === "]") {
    const size = $("size");
    size.selectedIndex = Math.min(Math.max(size.selectedIndex + (key === "]" ? 1 : -1), 0), size.options.length - 1);
    setPen(pen());
  } else if (visit.contrasts[Number(key) - 1]) showContrast(visit.contrasts[Number(key) - 1]);
  else return;
  event.preventDefault();
  event.stopImmediatePropagation();
}, {capture: true});

// Saving.
$("note").value = visit.note;
$("note").addEventListener("input", () => { $("submit").disabled = isSaved(); tell(isSaved() ? "" : "Not saved yet"); });
$("save").addEventListener("submit", async (event) => {
  event.preventDefault();
  const drawing = viewer.drawBitmap.slice(), note = $("note").value;
  const mask = new Uint8Array(drawing.length);
  for (let at = 0; at < drawing.length; at++) mask[own[at]] = drawing[at];
  const runs = [];
  for (let at = 0; at < mask.length; at++) {
    if (!mask[at]) continue;
    const from = at;
    while (at < mask.length && mask[at]) at++;
    runs.push(from, at - from);
  }
  $("submit").disabled = true;
  tell("Saving …");
  try {
    const answer = await fetch("correction", {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({shape: visit.shape, runs, note, state}),
    });
    if (!answer.ok) throw new Error(await answer.text());
    const reply = await answer.json();
    saved = {drawing, note};
    state = reply.state;
    corrected(reply.measure);
    $("measured").hidden = true;
    tell("Saved");
    update();
  } catch (error) {
    $("submit").disabled = false;
    tell(`Nothing was saved: ${error instanceof TypeError ? "the server has ended" : error.message}`, true);
  }
});
function corrected(command) {
  $("corrected").hidden = false;
  $("next").hidden = false;
  $("command").textContent = command;
}
window.addEventListener("beforeunload", (event) => { if (!isSaved()) event.preventDefault(); });

$("name").textContent = visit.name;
document.title = `${visit.name} · lesions · msrim`;
if (visit.corrected) corrected(visit.measure);
if (visit.measured) $("next").hidden = true;
$("measured").hidden = !visit.measured;
$("loading").hidden = true;
update();
if (visit.lesions.length) select(visit.lesions[0], {jump: true});
// For whoever drives the page.
window.msrim = {viewer, own};
document.body.dataset.ready = Math.round(performance.now());
// The planes can be used already; without a GPU the 3-D view takes its time.
setTimeout(() => {
  viewer.opts.multiplanarShowRender = WITH_3D;
  viewer.drawScene();
});
