// The page is in English and in Chinese. base.html shows the language of <html>: the browser's, until the reader changes it.
"use strict";

function showLanguage(language) {
  document.documentElement.lang = language;
  document.title = document.querySelector("title").dataset[language];
  const [textContent, ariaLabel] = {
    en: ["中文", "中文: show this page in Chinese"],
    zh: ["English", "English：用英文显示本页"],
  }[language];
  const onclick = () => showLanguage(language === "en" ? "zh" : "en");
  Object.assign(document.getElementById("language"), { textContent, ariaLabel, onclick, hidden: false });
}

showLanguage(navigator.language.startsWith("zh") ? "zh" : "en");

// A text in both languages, as the macro of that name in parts.html writes it.
function say(english, chinese) {
  const both = document.createDocumentFragment();
  for (const [lang, textContent] of [["en", english], ["zh", chinese]]) {
    both.append(Object.assign(document.createElement("span"), { lang, textContent }));
  }
  return both;
}
