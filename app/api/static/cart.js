"use strict";

// The tab for carts. It comes after try.js and uses its helpers.

const CATALOG = [
  "Green Tea 20 bags",
  "Green Tea with Mint 20 bags",
  "Coconut Water 330 ml",
  "Coconut Water 1 L",
  "Olive Oil 500 ml",
  "Running Shoes men 42",
  "Yoga Mat purple",
  "Laptop 14\" i5 16 GB",
  "Maslinovo ulje 1 l",
  "Jogurt prirodni 2,8% 1 kg",
  "Čokolada s lješnjacima 100 g",
  "Agua de coco 330 ml",
  "Café molido 250 g",
];
const CART_EXAMPLES = [
  "two green teas please, and take the olive oil out",
  "no wait, make that a dozen big coconut waters",
  "stavi tri jogurta i makni maslinovo ulje",
  "añade dos paquetes de café",
  "a bike helmet please",
  "is the yoga mat made of cork?",
];
const OUTCOMES = {
  no_action: ["No change", "the message asks for none"],
  not_in_catalog: ["Not in the catalog", "a wish for something else"],
  ambiguous: ["Which one?", "several products fit"],
};

const tabs = [byId("intent-tab"), byId("cart-tab")];
const cartText = byId("cart-text");
const catalog = byId("catalog");

function chooseTab(chosen) {
  for (const tab of tabs) {
    const selected = tab === chosen;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !selected;
  }
  byId("problem").hidden = true;
}

function offerCarts(models) {
  byId("tabs").hidden = !models.length;
  if (!models.length) chooseTab(tabs[0]);
  const select = byId("cart-model");
  select.replaceChildren(...models.map((model) => new Option(model.name, model.name)));
  byId("cart-model-choice").hidden = models.length < 2;
}

const products = () => catalog.value.split("\n").filter((line) => line.trim());

function countProducts() {
  const count = products().length;
  byId("catalog-count").textContent = count === 1 ? "1 product" : `${count} products`;
}

function change(action) {
  const item = element("li", action.action);
  const sign = element("span", "quantity", `${action.action === "add" ? "+" : "−"}${action.quantity}`);
  sign.setAttribute("role", "img");
  sign.setAttribute("aria-label", `${action.action} ${action.quantity}`);
  item.append(sign, element("span", "name", action.product), element("span", "value", percent(action.confidence)));
  if (action.ambiguous) {
    const others = action.candidates.filter((product) => product !== action.product);
    item.append(element("span", "note", `or ${others.join(", ")}? Ask the customer.`));
  }
  return item;
}

function showCart(request, found, roundTrip) {
  byId("problem").hidden = true;
  byId("cart-result").hidden = false;
  const count = found.actions.length;
  const [title, explained] = OUTCOMES[found.outcome] ?? [count === 1 ? "One change" : `${count} changes`, "for the cart"];
  byId("outcome").textContent = title;
  byId("cart-confidence").textContent = percent(found.confidence);
  byId("cart-scope").textContent = explained;
  byId("cart-scope").classList.toggle("out", found.outcome !== "actions");
  byId("changes").replaceChildren(...found.actions.map(change));
  byId("changes").hidden = !count;
  byId("ask-back").textContent = found.candidates.length ? `Ask the customer: ${found.candidates.join(", or ")}?` : "";
  showFacts(byId("cart-facts"), [
    ["products read", `${found.products_considered} of ${request.catalog.length}`],
    ...whence(found, roundTrip),
  ]);
  byId("cart-request").textContent = curl("/v1/cart", request);
  byId("cart-answer").textContent = JSON.stringify(found, null, 2);
}

async function readCart() {
  if (!cartText.value.trim()) return cartText.focus();
  const request = { text: cartText.value, catalog: products() };
  if (byId("cart-model").value) request.model = byId("cart-model").value;
  return ask("/v1/cart", request, byId("cart-send"), showCart);
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => chooseTab(tab));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const other = tabs.at(to % tabs.length);
    chooseTab(other);
    other.focus();
  });
}
catalog.value = CATALOG.join("\n");
catalog.addEventListener("input", countProducts);
countProducts();
wire(byId("cart-form"), cartText, byId("cart-examples"), CART_EXAMPLES, readCart);
