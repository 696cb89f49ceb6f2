// Pictures from arrays of pixels (n, C, H, W): conversion, drawing on a canvas, and the pictures of a grid such as a sheet of examples.

/** Return the array with its pixels in [0, 1] as bytes: {shape: [n, C, H, W], data: Uint8ClampedArray}. */
export function inBytes({ shape, data }) {
  const bytes = new Uint8ClampedArray(data.length);
  for (let i = 0; i < data.length; i++) bytes[i] = 255 * data[i];
  return { shape, data: bytes };
}

/** Draw picture `index` of an array of bytes into a context, at (x, y). Grey pictures have one channel. */
export function drawPicture(context, { shape: [, channels, height, width], data }, index, x = 0, y = 0) {
  const image = context.createImageData(width, height), plane = height * width, start = index * channels * plane;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = data[start + (channels >= 3 ? c : 0) * plane + i];
    image.data[4 * i + 3] = channels === 4 ? data[start + 3 * plane + i] : 255;
  }
  context.putImageData(image, x, y);
}

/** Draw all pictures of an array on a canvas as a grid, line by line. The canvas gets the size of the grid. */
export function drawGrid(canvas, pictures, columns, gap = 0) {
  const [n, , height, width] = pictures.shape, lines = Math.ceil(n / columns);
  canvas.width = columns * (width + gap) - gap;
  canvas.height = lines * (height + gap) - gap;
  const context = canvas.getContext("2d");
  for (let i = 0; i < n; i++) drawPicture(context, pictures, i, (i % columns) * (width + gap), Math.floor(i / columns) * (height + gap));
}

/**
 * Return every `step`-th picture of a grid (a Blob) as PNG data URLs. The grid is nearly square, filled line by line, with gaps of two pixels by default, as the
 * service writes it; `height` and `width` are those of one picture. Cells after the last picture have one grey value and are left out.
 */
export async function splitGrid(file, { height, width }, step = 1, gap = 2) {
  const all = await createImageBitmap(file);
  const columns = Math.round((all.width + gap) / (width + gap)), lines = Math.round((all.height + gap) / (height + gap));
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), context = canvas.getContext("2d", { willReadFrequently: true });
  const found = [];
  for (let i = 0; i < columns * lines; i += step) {
    context.drawImage(all, -(i % columns) * (width + gap), -Math.floor(i / columns) * (height + gap));
    const pixels = context.getImageData(0, 0, width, height).data;
    if (pixels.some((value, place) => place % 4 < 3 && value !== 64)) found.push(canvas.toDataURL());
  }
  return found;
}
