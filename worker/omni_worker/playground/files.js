// Files: as file inputs hold them, of what is in base64, and shown in lists.

export function listOf(files) {
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(file);
  return transfer.files;
}

export function ofBase64(text, name, type) { return new File([Uint8Array.from(atob(text), (char) => char.charCodeAt(0))], name, { type }); }

// An item that shows a file, and saves it by a click; where it can be taken away, with a button for it.
export function thumbnail(file, name, takeAway) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  const picture = new Image();
  link.href = picture.src = URL.createObjectURL(file);
  link.download = file.name;
  picture.alt = `${name}: ${file.name}`;
  link.append(picture);
  item.append(link);
  if (takeAway) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Remove";
    button.ariaLabel = `Remove ${name}: ${file.name}`;
    button.addEventListener("click", takeAway);
    item.append(button);
  }
  return item;
}
