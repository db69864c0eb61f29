// The part of the question that differs by its kind: a text, a picture, ids, a vector, nothing at all.

import { h, icon } from "./dom.js";
import { bytes } from "./format.js";
import { IMAGE_BYTES_MAX, toBase64 } from "./question.js";
import { t } from "./words.js";

/** Return the input of the question's kind. acts: ask(), redraw(), takeFile(file), lookAgain(). */
export function inputOf(question, seen, acts) {
  return { text: textInput, image: imageInput, ids: idsInput, vector: vectorInput, look: lookInput }[question.kind](question, acts, seen);
}

const submit = () => h("button", { class: "primary", type: "submit" }, icon("search"), t("search"));

function textInput(question) {
  return h("div", { class: "ask" },
    h("label", { class: "unseen", for: "query" }, t("text_label")),
    h("input", { id: "query", "data-first": true, type: "search", autocomplete: "off", value: question.text, placeholder: t("text_place"), maxlength: 1000, oninput: (event) => {
      question.text = event.target.value;
    } }), submit());
}

function imageInput(question, acts) {
  const { image } = question;
  const file = h("input", { id: "file", "data-first": true, type: "file", accept: "image/*", onchange: (event) => acts.takeFile(event.target.files[0]) });
  return h("div", { class: "drop" },
    image ? h("img", { src: image.url, alt: image.name }) : icon("picture"),
    h("div", {},
      h("p", {}, image ? t("image_kept", { name: image.name, size: bytes(image.bytes) }) : t("image_drop")),
      h("label", { class: "button" }, t("image_choose"), file)),
    image && submit());
}

function idsInput(question, acts, seen) {
  const read = (event) => [...new Set(event.target.value.split(",").map((each) => each.trim()).filter(Boolean))].map((each) => seen.typedId(each));
  return h("div", { class: "ask many" },
    h("label", { class: "field" }, h("span", {}, t("ids_label")),
      h("input", { id: "ids", "data-first": true, value: question.like.join(", "), autocomplete: "off", onchange: (event) => {
        question.like = read(event);
      } })),
    h("label", { class: "field" }, h("span", {}, t("ids_unlike")),
      h("input", { id: "unlike-ids", value: question.unlike.join(", "), autocomplete: "off", onchange: (event) => {
        question.unlike = read(event);
      } })), submit());
}

function vectorInput(question) {
  return h("div", { class: "ask many" },
    h("label", { class: "field wide" }, h("span", {}, t("vector_label")),
      h("textarea", { id: "vector", "data-first": true, rows: 3, spellcheck: "false", value: question.vector, oninput: (event) => {
        question.vector = event.target.value;
      } })), submit());
}

function lookInput(_, acts) {
  return h("div", { class: "ask look" },
    h("button", { type: "button", class: "primary", "data-first": true, onclick: acts.lookAgain }, t("look_again")),
    h("p", { class: "quiet" }, t("look_about")));
}

/** Return { picture } for a file, or { refusal } in words. */
export async function readPicture(file) {
  if (!file.type.startsWith("image/")) return { refusal: t("image_wrong", { name: file.name }) };
  if (file.size > IMAGE_BYTES_MAX) {
    return { refusal: t("image_large", { name: file.name, size: bytes(file.size), max: bytes(IMAGE_BYTES_MAX) }) };
  }
  const content = new Uint8Array(await file.arrayBuffer());
  return { picture: { name: file.name, bytes: file.size, base64: toBase64(content), url: URL.createObjectURL(file) } };
}
