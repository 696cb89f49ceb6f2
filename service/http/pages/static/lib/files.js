// Files and pictures: as data URLs, bytes, Blobs and pixels. The content security policy allows no request for a data URL.

/** Return the content of a file as a data URL. An empty or unreadable file is an error with a next step. */
export const dataUrl = file => new Promise((done, fail) => {
  if (!file.size) { fail(Object.assign(new Error(`The file ${file.name} is empty.`), { advice: "Choose another file." })); return; }
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => fail(Object.assign(new Error(`The file ${file.name} cannot be read.`), { advice: "Check that the file still exists, and choose it again." }));
  reader.readAsDataURL(file);
});

/** Return the base64 text of a data URL. */
export const base64 = url => url.slice(url.indexOf(",") + 1);

/** Return the content of a data URL as bytes. */
export const bytesOf = url => Uint8Array.from(atob(base64(url)), letter => letter.charCodeAt(0));

/** Return a data URL as a Blob. */
export const blobOf = url => new Blob([bytesOf(url)], { type: url.slice(5, url.indexOf(";")) });

/** Load a picture and return it as an element. `problem` is the error if it cannot be loaded. */
export function loadPicture(src, problem = { message: "A picture of this model cannot be loaded.", advice: "Reload the page, or choose another model." }) {
  return new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(Object.assign(new Error(problem.message), { advice: problem.advice }));
    picture.src = src;
  });
}

/** Return the pixels of a picture as ImageData: at its own size, or scaled to `size`. */
export async function pixelsOf(src, size) {
  const picture = await loadPicture(src), { width, height } = size ?? { width: picture.naturalWidth, height: picture.naturalHeight };
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}
