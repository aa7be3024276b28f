// Google's tag, loaded from a file so that the page's policy can forbid scripts in the page.
window.dataLayer = window.dataLayer || [];
function gtag() { window.dataLayer.push(arguments); }
gtag("js", new Date());
gtag("config", document.currentScript.dataset.id);
