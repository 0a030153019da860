// The map: all images as dots on a canvas, which is drawn pixel by pixel so
// that a million dots can be moved without a stall.

const COLORS = [
  "1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b", "e377c2",
  "7f7f7f", "bcbd22", "17becf", "aec7e8", "ffbb78", "98df8a", "ff9896",
  "c5b0d5", "c49c94", "f7b6d2", "c7c7c7", "dbdb8d", "9edae5",
];
const UNIT = 65535; // Places are in 0..UNIT.
const NEAR = 12; // Pixels at which a dot is hit.
const STEP = 60; // Pixels of an arrow key.
const MOST_ZOOM = 400;
const MIXING = 7877; // A prime, and so is MIXING + 2.

export const color = (group) => `#${COLORS[group % COLORS.length]}`;

export class NeighborMap {
  // Calls `choose(position)` for a click, and `point(position, x, y)` when the
  // pointer is on a dot; position is -1 elsewhere.
  constructor(canvas, { choose, point }) {
    this.canvas = canvas;
    this.choose = choose;
    this.point = point;
    this.places = new Uint16Array();
    this.groups = new Uint8Array();
    this.marked = [];
    this.zoom = 1;
    this.center = [0.5, 0.5]; // In units of the map.
    this.pointers = new Map();
    this.isWaiting = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 400), ...this.at(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => {
      this.pointers.delete(event.pointerId);
    });
    canvas.addEventListener("pointerleave", () => this.point(-1, 0, 0));
    canvas.addEventListener("keydown", (event) => this.key(event));
    matchMedia("(prefers-color-scheme: dark)")
      .addEventListener("change", () => this.draw());
  }

  show(places, groups) {
    this.places = places;
    this.groups = groups;
    this.draw();
  }

  // The first of the positions gets a large ring, the others small ones. None
  // is drawn for `undefined`, such as a query that is not on the map.
  mark(positions) {
    this.marked = positions;
    this.draw();
  }

  zoomBy(factor, x = this.width / 2, y = this.height / 2) {
    const [before, after] = [this.inMap(x, y), Math.min(
      MOST_ZOOM, Math.max(0.5, this.zoom * factor))];
    this.zoom = after;
    const now = this.inMap(x, y);
    this.center[0] += before[0] - now[0];
    this.center[1] += before[1] - now[1];
    this.draw();
  }

  reset() {
    this.zoom = 1;
    this.center = [0.5, 0.5];
    this.draw();
  }

  get width() { return this.canvas.clientWidth; }
  get height() { return this.canvas.clientHeight; }

  // CSS pixels of the whole map.
  get side() {
    return 0.94 * Math.min(this.width, this.height) * this.zoom;
  }

  inMap(x, y) {
    return [
      this.center[0] + (x - this.width / 2) / this.side,
      this.center[1] + (y - this.height / 2) / this.side,
    ];
  }

  onCanvas(position) {
    return [
      (this.places[2 * position] / UNIT - this.center[0]) * this.side
        + this.width / 2,
      (this.places[2 * position + 1] / UNIT - this.center[1]) * this.side
        + this.height / 2,
    ];
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  // The dot that is nearest to a place on the canvas; -1 if none is near.
  nearest(x, y) {
    const [mapX, mapY] = this.inMap(x, y).map((value) => value * UNIT);
    let best = (NEAR / this.side * UNIT) ** 2;
    let found = -1;
    for (let i = 0; i < this.groups.length; i++) {
      const dx = this.places[2 * i] - mapX;
      const dy = this.places[2 * i + 1] - mapY;
      const distance = dx * dx + dy * dy;
      if (distance < best) [best, found] = [distance, i];
    }
    return found;
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    this.start = this.pointers.size === 1 ? this.at(event) : null;
  }

  move(event) {
    const now = this.at(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      const found = this.nearest(...now);
      this.point(found, ...now);
      return;
    }
    this.pointers.set(event.pointerId, now);
    if (this.start && Math.hypot(
      now[0] - this.start[0], now[1] - this.start[1]) > 5) {
      this.start = null; // It is not a click anymore.
    }
    if (this.start) return;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
    const share = this.side * this.pointers.size;
    this.center[0] -= (now[0] - before[0]) / share;
    this.center[1] -= (now[1] - before[1]) / share;
    if (others.length) {
      const other = others[0][1];
      const far = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]) || 1;
      this.zoomBy(far(now) / far(before),
        (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    this.draw();
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (!this.start) return;
    this.start = null;
    const found = this.nearest(...this.at(event));
    if (found >= 0) this.choose(found);
  }

  key(event) {
    const moves = {
      ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
      ArrowDown: [0, 1],
    };
    if (event.key in moves) {
      this.center[0] += moves[event.key][0] * STEP / this.side;
      this.center[1] += moves[event.key][1] * STEP / this.side;
      this.draw();
    } else if (event.key === "+" || event.key === "=") {
      this.zoomBy(1.5);
    } else if (event.key === "-") {
      this.zoomBy(1 / 1.5);
    } else if (event.key === "0") {
      this.reset();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  draw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.drawNow();
    });
  }

  drawNow() {
    const scale = devicePixelRatio;
    const width = Math.round(this.width * scale);
    const height = Math.round(this.height * scale);
    if (!width || !height) return;
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const colors = COLORS.map((hex) => {
      const value = parseInt(hex, 16);
      const [red, green, blue] = [value >> 16, value >> 8 & 255, value & 255];
      return (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
    });
    const radius = this.dotRadius() * scale;
    const reach = Math.ceil(radius);
    const disc = [];
    for (let y = -reach; y <= reach; y++) {
      for (let x = -reach; x <= reach; x++) {
        if (x * x + y * y <= radius * radius) disc.push(y * width + x);
      }
    }
    const step = this.side * scale / UNIT;
    const left = width / 2 - this.center[0] * this.side * scale;
    const top = height / 2 - this.center[1] * this.side * scale;
    // In a mixed order, so that no group covers the others.
    const count = this.groups.length;
    const stride = count % MIXING ? MIXING : MIXING + 2;
    for (let k = 0; k < count; k++) {
      const i = k * stride % count;
      const x = Math.round(this.places[2 * i] * step + left);
      const y = Math.round(this.places[2 * i + 1] * step + top);
      if (x < reach || y < reach || x >= width - reach || y >= height - reach) {
        continue;
      }
      const place = y * width + x;
      const value = colors[this.groups[i] % COLORS.length];
      for (let j = 0; j < disc.length; j++) pixels[place + disc[j]] = value;
    }
    context.putImageData(image, 0, 0);
    this.drawMarks(context, scale);
  }

  // CSS pixels: small among many images, and larger when zoomed in.
  dotRadius() {
    const base = Math.max(1, 4 - Math.log10(this.groups.length + 1) / 1.6);
    return Math.min(6, base * Math.sqrt(this.zoom));
  }

  drawMarks(context, scale) {
    const ink = getComputedStyle(this.canvas).color;
    const paper = getComputedStyle(document.body).backgroundColor;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    // The first is drawn last, above the others.
    this.marked.map((position, i) => [position, i]).reverse()
      .forEach(([position, i]) => {
        const [x, y] = this.onCanvas(position);
        for (const [style, width] of [[paper, 5], [ink, 2]]) {
          context.beginPath();
          context.arc(x, y, i ? 5 : 10, 0, 2 * Math.PI);
          context.strokeStyle = style;
          context.lineWidth = width;
          context.stroke();
        }
      });
    context.setTransform(1, 0, 0, 1, 0, 0);
  }
}
